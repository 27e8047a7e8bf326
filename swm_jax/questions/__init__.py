"""Questions about scenes: their types, their words, and goals made of them.

What can be asked of a world, and what is true there, is its language:
`swm_jax.worlds.language("board")`.
"""

import importlib

from swm_jax.questions.goal import Goal, make_goal
from swm_jax.questions.language import Language, QuestionTable, expand
from swm_jax.questions.question import FreeQuestion, Question, check_on_board
from swm_jax.questions.types import YES_NO, AnswerSet, Arg, QuestionType, bins
from swm_jax.questions.words import corpus, vocabulary

# Goals of tasks are asked in the words of a world, which imports this package.
_GOALS = {
    "DOMAIN_TASKS": "goals",
    "PRESETS": "goals",
    "STAGE_RULES": "stages",
    "SidedGoal": "sided",
    "Stage": "stages",
    "StagedGoal": "stages",
    "TASKS": "goals",
    "goal_for_task": "goals",
    "neighbours": "goals",
}


def __getattr__(name: str):
    if name not in _GOALS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_GOALS[name]}"), name)


__all__ = [
    "YES_NO",
    "AnswerSet",
    "Arg",
    "FreeQuestion",
    "Goal",
    "Language",
    "Question",
    "QuestionTable",
    "QuestionType",
    "bins",
    "check_on_board",
    "corpus",
    "expand",
    "make_goal",
    "vocabulary",
]
