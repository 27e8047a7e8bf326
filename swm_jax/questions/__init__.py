"""Questions about the board: their words, their truth, and goals made of them."""

from swm_jax.questions import predicates
from swm_jax.questions.board_words import DIRECTIONS, REGIONS, SIDES
from swm_jax.questions.goals import (
    PRESETS,
    TASKS,
    Goal,
    Stage,
    goal_for_task,
    make_goal,
    neighbours,
)
from swm_jax.questions.grammar import (
    ANSWERS,
    DESCRIBE,
    DETECT,
    OBJECT_NAMES,
    PHRASINGS,
    Question,
    check_on_board,
    corpus,
    parse,
    phrasings,
    question,
    vocabulary,
)
from swm_jax.questions.predicates import CHANGE_TYPES, TYPES
from swm_jax.questions.table import QuestionTable, question_table, type_arguments

__all__ = [
    "ANSWERS",
    "CHANGE_TYPES",
    "DESCRIBE",
    "DETECT",
    "DIRECTIONS",
    "OBJECT_NAMES",
    "PHRASINGS",
    "PRESETS",
    "REGIONS",
    "SIDES",
    "TASKS",
    "TYPES",
    "Goal",
    "Question",
    "QuestionTable",
    "Stage",
    "check_on_board",
    "corpus",
    "goal_for_task",
    "make_goal",
    "neighbours",
    "parse",
    "phrasings",
    "predicates",
    "question",
    "question_table",
    "type_arguments",
    "vocabulary",
]
