"""Parts shared by worlds: env interface, two physics engines, ray caster, scenes."""

from swm_jax.envs import opengl  # noqa: F401  (imports MuJoCo, before anything else)

# isort: split
from swm_jax.envs.env import Env, EnvMaker
from swm_jax.envs.scene import (
    BLOCK_NAMES,
    COLOURS,
    SHAPES,
    AnyScene,
    SceneFormat,
    StoredField,
)

__all__ = [
    "BLOCK_NAMES",
    "COLOURS",
    "SHAPES",
    "AnyScene",
    "Env",
    "EnvMaker",
    "SceneFormat",
    "StoredField",
]
