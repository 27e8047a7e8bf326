"""Measurements: each file prints what it compares, side by side in one run."""
