"""Questions about scenes: their words, their truth, and goals made of them."""

from swm_jax.questions import predicates
from swm_jax.questions.board_words import DIRECTIONS, REGION_POINTS, REGIONS, SIDES
from swm_jax.questions.conditional_goals import (
    STAGE_RULES,
    ConditionalGoal,
    Stage,
    StagedGoal,
)
from swm_jax.questions.free import FreeQuestion
from swm_jax.questions.goal import Goal, make_goal
from swm_jax.questions.grammar import (
    ANSWERS,
    DESCRIBE,
    NOTHING,
    NUM_PHRASINGS,
    OBJECT_NAMES,
    PHRASINGS,
    Question,
    check_on_board,
    corpus,
    detection_prompt,
    parse,
    phrasings,
    question,
    region_prompt,
    vocabulary,
)
from swm_jax.questions.predicates import (
    ALL_TYPES,
    CHANGE_TYPES,
    DOMAINS,
    TYPES,
    domain_of,
)
from swm_jax.questions.table import QuestionTable, question_table, type_arguments

__all__ = [
    "ALL_TYPES",
    "ANSWERS",
    "CHANGE_TYPES",
    "DESCRIBE",
    "DIRECTIONS",
    "DOMAINS",
    "NOTHING",
    "NUM_PHRASINGS",
    "OBJECT_NAMES",
    "PHRASINGS",
    "REGIONS",
    "REGION_POINTS",
    "SIDES",
    "STAGE_RULES",
    "TYPES",
    "ConditionalGoal",
    "FreeQuestion",
    "Goal",
    "Question",
    "QuestionTable",
    "Stage",
    "StagedGoal",
    "check_on_board",
    "corpus",
    "detection_prompt",
    "domain_of",
    "make_goal",
    "parse",
    "phrasings",
    "predicates",
    "question",
    "question_table",
    "region_prompt",
    "type_arguments",
    "vocabulary",
]
