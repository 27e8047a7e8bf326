"""Renderers of the board on device and host, and their looks."""
