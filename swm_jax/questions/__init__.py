"""Questions about scenes: types, wordings, and goals made of them.

The question types of a world with their rules are its `Language`:
`swm_jax.worlds.language("board")`.
"""

from swm_jax.questions.conditional_goals import (
    STAGE_RULES,
    ConditionalGoal,
    Stage,
    StagedGoal,
)
from swm_jax.questions.goal import Goal, make_goal
from swm_jax.questions.language import Language, QuestionTable, expand
from swm_jax.questions.question import FreeQuestion, Question, check_on_board
from swm_jax.questions.types import YES_NO, AnswerSet, Arg, QuestionType, bins
from swm_jax.questions.words import corpus, vocabulary

__all__ = [
    "STAGE_RULES",
    "YES_NO",
    "AnswerSet",
    "Arg",
    "ConditionalGoal",
    "FreeQuestion",
    "Goal",
    "Language",
    "Question",
    "QuestionTable",
    "QuestionType",
    "Stage",
    "StagedGoal",
    "bins",
    "check_on_board",
    "corpus",
    "expand",
    "make_goal",
    "vocabulary",
]
