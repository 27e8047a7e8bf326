"""Stages follow one another, fall back, or stay latched, as their rule says."""

import numpy as np
import pytest
from goal_choice import by_table
from hypothesis import given
from hypothesis import strategies as st

from swm_jax import worlds
from swm_jax.questions import FreeQuestion, Stage, StagedGoal, make_goal
from swm_jax.questions.conditional_goals import present_of
from swm_jax.worlds.board.goals import goal_for_task

BOARD = worlds.language("board")

GOALS = [goal_for_task("reach", (name,)) for name in ("red moon", "blue cube")]
NEAR = GOALS[0].questions[0]


def two(rule, **thresholds):
    return StagedGoal((Stage(GOALS[0], NEAR, **thresholds), Stage(GOALS[1])), rule)


def walk(goal, probabilities, stage=0):
    """Stages that a series of answers about the present leads through."""
    stages = []
    for p in probabilities:
        margins = np.log(p) - np.log1p(-np.asarray(p))
        _, stage = by_table(goal, margins, stage)
        stages.append(stage)
    return stages


def test_a_dropped_object_is_picked_up_again():
    answers = [0.1, 0.89, 0.91, 0.7, 0.51, 0.3, 0.7, 0.95]
    assert walk(two("hysteresis"), answers) == [0, 0, 1, 1, 1, 0, 0, 1]


def test_the_published_latch_never_goes_back():
    answers = [0.1, 0.89, 0.91, 0.7, 0.51, 0.3, 0.01]
    assert walk(two("latch"), answers) == [0, 0, 1, 1, 1, 1, 1]


@given(st.lists(st.floats(0.51, 0.89), min_size=1, max_size=9), st.integers(0, 1))
def test_answers_between_the_thresholds_change_nothing(answers, stage):
    assert walk(two("hysteresis"), answers, stage) == [stage] * len(answers)


OFF_THRESHOLD = st.floats(0.01, 0.99).filter(lambda p: abs(p - 0.6) > 1e-6)


@given(st.lists(OFF_THRESHOLD, min_size=1, max_size=9))
def test_equal_thresholds_forget_the_past(answers):
    goal = two("hysteresis", threshold=0.6, fall_back=0.6)
    assert walk(goal, answers) == [int(p > 0.6) for p in answers]


def test_three_stages_may_be_skipped_and_fall_to_the_first_that_is_undone():
    stages = (Stage(GOALS[0], NEAR), Stage(GOALS[1], BOARD.question("peg_moved")))
    goal = StagedGoal((*stages, Stage(GOALS[0])))
    assert walk(goal, [(0.95, 0.95), (0.95, 0.2), (0.2, 0.2)]) == [2, 1, 0]
    assert walk(goal, [(0.95, 0.2), (0.2, 0.95)]) == [1, 0]
    assert present_of(goal) == (NEAR, BOARD.question("peg_moved"))
    assert by_table(goal, [9.0, -9.0])[0] is GOALS[1]


@pytest.mark.parametrize("rule", ("hysteresis", "latch"))
@pytest.mark.parametrize("stage", (0, 1))
def test_nan_moves_nothing(rule, stage):
    assert by_table(two(rule), [np.nan], stage)[1] == stage


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Stage(GOALS[0], NEAR, 0.5, 0.6), "fall_back 0.6 and threshold 0.5"),
        (lambda: Stage(GOALS[0], NEAR, 1.0), "threshold < 1"),
        (lambda: two("latched"), "unknown stage rule 'latched'"),
        (lambda: StagedGoal(()), "question that ends it"),
        (lambda: FreeQuestion(" "), "needs words"),
        (
            lambda: make_goal([(FreeQuestion("How many?"), "4", 1.0, ("0", "1"))]),
            r"one of \('0', '1'\), got '4'",
        ),
        (
            lambda: make_goal([(FreeQuestion("How many?"), "1", 1.0, ("1",))]),
            "distinct answers",
        ),
    ],
)
def test_impossible_stages_and_answers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_goals_may_want_answers_of_any_set():
    many = FreeQuestion("How many blocks touch the peg?")
    goal = make_goal([(NEAR, "yes", 1.0), (many, "2", 0.5, ("0", "1", "2"))])
    assert goal.answers.tolist() == [1, 2]
    assert goal.answer_sets == (("no", "yes"), ("0", "1", "2"))
    assert goal.describe().endswith("+0.50  How many blocks touch the peg?  2")
