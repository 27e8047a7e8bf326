"""Simulated worlds: one folder each, with its physics, pictures, tasks and language."""

from swm_jax.worlds.board.env import BoardEnv, State
from swm_jax.worlds.cube.env import CubeEnv, CubeState
from swm_jax.worlds.registry import default_config, env_names, load_env

__all__ = [
    "BoardEnv",
    "CubeEnv",
    "CubeState",
    "State",
    "default_config",
    "env_names",
    "load_env",
]
