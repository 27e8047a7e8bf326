"""Experiment configs, launchers and benchmarks."""
