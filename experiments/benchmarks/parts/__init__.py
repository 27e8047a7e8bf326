"""Shared parts of the benchmarks: timing, workloads, ways to train."""
