"""Envs by name: `load_env("board")` is all that most callers need."""

import importlib

import jax
import ml_collections

from swm_jax.choices import known
from swm_jax.envs.env import Env
from swm_jax.worlds.board import env as board
from swm_jax.worlds.board.looks import LOOKS
from swm_jax.worlds.board.scene import BLOCK_SETS
from swm_jax.worlds.cube import env as cube
from swm_jax.worlds.cube.looks import CUBE_LOOKS
from swm_jax.worlds.cube.model import MAX_CUBES

# name -> (settings, {backend: "module:class"}); a backend is imported when asked for
_ENVS = {
    "board": (
        board.default_config,
        {
            "mujoco": "swm_jax.worlds.board.engine_mujoco:MujocoBoard",
            "mjx": "swm_jax.worlds.board.engine_mjx:MjxBoard",
        },
    ),
    "cube": (
        cube.default_config,
        {
            "mujoco": "swm_jax.worlds.cube.engine_mujoco:MujocoCube",
            "mjx": "swm_jax.worlds.cube.engine_mjx:MjxCube",
        },
    ),
}


def load_env(
    name: str = "board", backend: str | None = None, **config_overrides
) -> Env:
    """Builds an env.

    Args:
      name: a registered name.
      backend: "mujoco" (C engine), "mjx", or None: mujoco where JAX runs on a CPU,
        mjx on accelerators.
      **config_overrides: fields of `default_config(name)`.

    Raises:
      ValueError: an unknown name, backend or setting; the message suggests one.
    """
    config = default_config(name)
    _, backends = _ENVS[name]
    for field, value in config_overrides.items():
        known("setting of " + name, field, config)
        try:
            config[field] = value
        except TypeError as error:
            raise ValueError(
                f"setting {field!r} of {name} is {value!r}, expected a value like "
                f"{config[field]!r}"
            ) from error
    _check(name, config)
    if backend is None:
        backend = "mujoco" if jax.default_backend() == "cpu" else "mjx"
    known("backend", backend, backends)
    module, _, cls = backends[backend].partition(":")
    return getattr(importlib.import_module(module), cls)(config.lock())


def default_config(name: str = "board") -> ml_collections.ConfigDict:
    """The settings `load_env(name)` starts from."""
    known("env", name, _ENVS)
    return _ENVS[name][0]()


def env_names() -> tuple[str, ...]:
    """Every registered name."""
    return tuple(_ENVS)


def _check(name: str, config: ml_collections.ConfigDict) -> None:
    if name == "board":
        known("block set", config.block_set, BLOCK_SETS)
        period = board.geometry.CONTROL_PERIOD
    else:
        if not 1 <= config.cubes <= MAX_CUBES:
            raise ValueError(f"cubes is {config.cubes}, expected 1 to {MAX_CUBES}")
        period = config.control_period
    known("look", config.look, LOOKS if name == "board" else CUBE_LOOKS)
    steps = period / config.physics_dt
    if steps < 1 or abs(steps - round(steps)) > 1e-6:
        raise ValueError(
            f"physics_dt is {config.physics_dt} s, expected a value that divides the "
            f"control period of {period} s"
        )
