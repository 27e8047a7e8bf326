"""Analysis of programs compiled ahead of time for TPU slices: memory, time, network."""

from swm_jax.tools.topology import CHIPS, Chip, Slice, TopologyError, get_slice

__all__ = ["CHIPS", "Chip", "Slice", "TopologyError", "get_slice"]
