"""Renderers of Push-T on device and host, and their looks."""
