"""Closed-loop episodes: loops on host and device, and sweeps of episodes."""
