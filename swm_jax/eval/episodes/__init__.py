"""Closed-loop episodes: on the host, on the device, and sweeps of them."""
