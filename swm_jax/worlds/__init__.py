"""Simulated worlds: one folder each, with its physics, pictures, tasks and language."""

from swm_jax.choices import known
from swm_jax.questions.language import Language
from swm_jax.questions.types import QuestionType
from swm_jax.worlds.board import questions as board_questions
from swm_jax.worlds.board.env import BoardEnv, State
from swm_jax.worlds.cube import questions as cube_questions
from swm_jax.worlds.cube.env import CubeEnv, CubeState
from swm_jax.worlds.registry import default_config, env_names, load_env

__all__ = [
    "BoardEnv",
    "CubeEnv",
    "CubeState",
    "State",
    "default_config",
    "env_names",
    "language",
    "languages",
    "load_env",
    "question_types",
]

_LANGUAGES = {
    language.name: language
    for language in (board_questions.LANGUAGE, cube_questions.LANGUAGE)
}


def language(name: str) -> Language:
    """What can be asked of a world.

    Raises:
      ValueError: no world of that name; suggests the nearest.
    """
    return _LANGUAGES[known("world", name, _LANGUAGES)]


def languages() -> tuple[Language, ...]:
    """The languages of all worlds."""
    return tuple(_LANGUAGES.values())


def question_types() -> dict[int, QuestionType]:
    """The question types of all worlds by id.

    Raises:
      ValueError: two types of one id or name.
    """
    kinds = [kind for language in languages() for kind in language.types]
    found = {kind.id: kind for kind in kinds}
    if not len(kinds) == len(found) == len({kind.name for kind in kinds}):
        raise ValueError("ids and names of question types must be unique over worlds")
    return dict(sorted(found.items()))
