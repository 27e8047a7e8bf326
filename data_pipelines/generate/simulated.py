"""The envs that episodes can be generated in, and what generation must know of them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from data_pipelines.generate import board_episodes, cube_episodes
from data_pipelines.schema.domains import CUBE_POLICIES, POLICIES
from swm_jax.worlds.board.looks import LOOKS
from swm_jax.worlds.cube.looks import CUBE_LOOKS


@dataclasses.dataclass(frozen=True)
class World:
    """What generation needs to know of an env.

    Attributes:
      simulate: plays episodes, as `board_episodes.simulate`.
      policies: names of those who act.
      looks: name -> look of its pictures.
      settings: fields of the config that its env is built with.
    """

    simulate: Callable[..., Any]
    policies: tuple[str, ...]
    looks: Mapping[str, Any]
    settings: tuple[str, ...]


WORLDS = {
    "board": World(board_episodes.simulate, POLICIES, LOOKS, ("block_set",)),
    "cube": World(
        cube_episodes.simulate,
        CUBE_POLICIES,
        CUBE_LOOKS,
        ("cubes", "control_period"),
    ),
}
