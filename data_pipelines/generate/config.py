"""Generation configs: defaults by world, and validation."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from data_pipelines.schema.episode import DataError
from swm_jax import worlds
from swm_jax.choices import known
from swm_jax.envs import Env
from swm_jax.worlds.world import World


def default_config(world: str) -> ml_collections.ConfigDict:
    """Default config of a world for `python -m data_pipelines.generate`.

    Args:
      world: its name; fields of the world alone come from `policies.generation`.
    """
    config = ml_collections.ConfigDict()
    config.name = world
    config.world = world
    config.seed = 0
    config.episodes = 400
    config.val_share = 0.1  # episodes, the last ones
    config.episodes_per_shard = 20
    config.branches = 1  # consecutive episodes that begin in the same state
    config.lead = 0  # most steps played before that state, see `play`
    config.backend = ""  # one of the env's engines; "" picks by the accelerator
    config.look = "default"  # one of the world's looks
    config.height = 96
    config.width = 96
    config.supersample = 2
    config.update(worlds.load(world).policies.generation())
    return config


def shrink(config: ml_collections.ConfigDict) -> None:
    """Reduces a config to four short episodes with small frames, for tests."""
    config.episodes, config.val_share, config.episodes_per_shard = 4, 0.25, 2
    config.min_steps, config.max_steps = 16, 20
    config.height = config.width = 32
    config.supersample = 1


def world_of(config: ml_collections.ConfigDict) -> World:
    """The world of a config.

    Raises:
      DataError: an unknown name.
    """
    try:
        return worlds.load(known("world", config.world, worlds.names()))
    except ValueError as error:
        raise DataError(f"config.world: {error}") from error


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Validated copy of a config, with the backend filled in.

    Raises:
      DataError: an invalid value; names the field, the value and the expected ones.
    """
    config = config.copy_and_resolve_references()

    def need(good: bool, field: str, expected: str) -> None:
        if not good:
            value = config.to_dict().get(field)
            raise DataError(f"config.{field} is {value!r}, expected {expected}")

    world = world_of(config)
    names, looks = world.policies.names, world.looks
    need(config.branches >= 1, "branches", "at least 1")
    least = 2 * config.branches
    need(config.episodes >= least, "episodes", f"at least {least}")
    need(0 <= config.seed < 2**62, "seed", "0 to 2**62 - 1")
    need(0 < config.val_share < 1, "val_share", "a share between 0 and 1")
    need(config.episodes_per_shard >= 1, "episodes_per_shard", "at least 1")
    for field in ("episodes", "episodes_per_shard"):
        whole = config[field] % config.branches == 0
        need(whole, field, f"a multiple of branches, {config.branches}")
    need(config.lead >= 0, "lead", "at least 0")
    need(config.min_steps >= 1, "min_steps", "at least 1")
    need(config.max_steps >= config.min_steps, "max_steps", "at least min_steps")
    need(config.look in looks, "look", f"one of {', '.join(looks)}")
    mixture = config.mixture.to_dict()
    good = set(mixture) <= set(names)
    good = good and all(weight >= 0 for weight in mixture.values())
    good = good and sum(mixture.values()) > 0
    need(good, "mixture", f"weights of {', '.join(names)}")
    try:
        world.policies.check(config)
        config.backend = world.env.engine(config.backend)
    except ValueError as error:
        raise DataError(str(error)) from error
    return config


def make_env(config: ml_collections.ConfigDict) -> Env:
    """Env in which a config's episodes are simulated."""
    world = world_of(config)
    settings = {field: config[field] for field in world.policies.settings}
    return world.make_env(config.backend, **settings)


def upgrade(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a stored config of an older version to the current form."""
    stored = dict(stored)
    if "world" not in stored:  # earlier "env", and absent when the board was alone
        stored["world"] = stored.pop("env", "board")
    return {"branches": 1, "lead": 0, **stored}
