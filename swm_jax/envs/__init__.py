"""Simulated worlds: scenes, physics, pictures."""

from swm_jax.envs.scene import BLOCK_NAMES, BLOCK_SETS, COLOURS, SHAPES, Scene

__all__ = ["BLOCK_NAMES", "BLOCK_SETS", "COLOURS", "SHAPES", "Scene"]
