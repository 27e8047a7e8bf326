"""Renderers of the cube world on device and host, and their looks."""
