"""Monitoring of a run: metrics, goodput, profiles."""
