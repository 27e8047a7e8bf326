"""Simulated worlds: scenes, physics, pictures."""

from swm_jax.envs import board_geometry
from swm_jax.envs.board import BoardEnv, State
from swm_jax.envs.cube import CubeEnv, CubeState
from swm_jax.envs.registry import AnyEnv, default_config, env_names, load
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
    "AnyEnv",
    "AnyScene",
    "BoardEnv",
    "CubeEnv",
    "CubeScene",
    "CubeState",
    "Scene",
    "State",
    "board_geometry",
    "default_config",
    "env_names",
    "load",
]
