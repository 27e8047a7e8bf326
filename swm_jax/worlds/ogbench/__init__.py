"""Adapter to OGBench's own cube envs (extra `ogbench`)."""
