"""What worlds are built of: the interface, two engines, a ray caster, scenes."""

from swm_jax.envs.env import Env
from swm_jax.envs.scene import (
    BLOCK_NAMES,
    BLOCK_SETS,
    COLOURS,
    CUBES,
    SHAPES,
    AnyScene,
    CubeScene,
    Scene,
)

__all__ = [
    "BLOCK_NAMES",
    "BLOCK_SETS",
    "COLOURS",
    "CUBES",
    "SHAPES",
    "AnyScene",
    "CubeScene",
    "Env",
    "Scene",
]
