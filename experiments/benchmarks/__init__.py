"""Benchmarks: each module prints a comparison measured in one run."""
