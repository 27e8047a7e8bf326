"""Simulated worlds: one folder each, with its physics, renderers, tasks and language.

    world = worlds.load("board")
    env = worlds.load_env("board", backend="mujoco", block_set="unseen")

Everything about a world is in its folder, which exposes `WORLD`, a `world.World`.
Worlds are imported on first use.
"""

import functools
import importlib
from typing import TYPE_CHECKING, Any

from swm_jax.choices import known

if TYPE_CHECKING:
    from swm_jax.envs import Env
    from swm_jax.questions import Language, QuestionType
    from swm_jax.worlds.world import World

DEFAULT = "board"  # the world of the model that ships with the package
_FOLDERS = {  # name -> the package that exposes `WORLD`
    "board": "swm_jax.worlds.board",
    "cube": "swm_jax.worlds.cube",
    "pusht": "swm_jax.worlds.pusht",
    "ogbench": "swm_jax.worlds.ogbench",
    "language_table": "swm_jax.worlds.language_table",
}


def names() -> tuple[str, ...]:
    """Names of all registered worlds."""
    return tuple(_FOLDERS)


@functools.cache
def load(name: str) -> "World":
    """The world of that name.

    Raises:
      ValueError: an unknown name; the message suggests the nearest.
    """
    return importlib.import_module(_FOLDERS[known("world", name, _FOLDERS)]).WORLD


def language(name: str) -> "Language":
    """Language of a world: its question types and wordings."""
    return load(name).language


def languages() -> tuple["Language", ...]:
    """Distinct languages of all worlds."""
    every = [language(name) for name in names()]
    return tuple({each.name: each for each in every}.values())


@functools.cache
def question_types() -> dict[int, "QuestionType"]:
    """The question types of all worlds by id.

    Raises:
      ValueError: two types with the same id or name.
    """
    from swm_jax.questions.types import check_unique

    kinds = [kind for each in languages() for kind in each.types]
    check_unique(kinds)
    found = {kind.id: kind for kind in kinds}
    return dict(sorted(found.items()))


def load_env(name: str = DEFAULT, backend: str | None = None, **settings: Any) -> "Env":
    """An env of a world, as `load(name).make_env(backend, **settings)`."""
    return load(name).make_env(backend, **settings)
