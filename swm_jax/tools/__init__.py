"""What is known about TPU slices and compiled programs before a machine is rented."""

from swm_jax.tools.topology import CHIPS, Chip, Slice, TopologyError, get_slice

__all__ = ["CHIPS", "Chip", "Slice", "TopologyError", "get_slice"]
