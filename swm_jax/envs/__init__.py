"""Simulated worlds: scenes, physics, pictures."""

from swm_jax.envs import board_geometry
from swm_jax.envs.board import BoardEnv, State
from swm_jax.envs.cube import CubeEnv, CubeState
from swm_jax.envs.env import Env
from swm_jax.envs.registry import default_config, env_names, load
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
    "BoardEnv",
    "CubeEnv",
    "CubeScene",
    "CubeState",
    "Env",
    "Scene",
    "State",
    "board_geometry",
    "default_config",
    "env_names",
    "load",
]
