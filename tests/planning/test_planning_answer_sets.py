"""Planners want answers of several tokens, with the values that asking gives."""

import jax
import numpy as np
import pytest

from swm_jax import worlds
from swm_jax.models import (
    Observation,
    SemanticWorldModel,
    Tokenizer,
    VLMWorldModel,
    get_config,
)
from swm_jax.models.ask import answer_batch, encode_answers
from swm_jax.planning import get_planner
from swm_jax.planning.goals.question_batch import goal_batch
from swm_jax.questions import FreeQuestion, make_goal

BOARD = worlds.language("board")

TOKENIZER = Tokenizer.load("tiny")
THINGS = ("red moon", "nothing", "the blue cube")
TOUCHED = FreeQuestion("What is the peg touching?")
CLOSER = BOARD.question("peg_closer", "red moon")


@pytest.fixture(scope="module")
def model():
    config = get_config(
        "tiny", depth=1, vision_depth=1, image_size=24, width=32, mlp=32, max_horizon=4
    )
    shapes = jax.eval_shape(SemanticWorldModel(config).init_params, jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: np.float32(0.2 * rng.normal(size=s.shape)), shapes)
    return VLMWorldModel(params, config)


def test_answers_of_several_tokens_are_padded_and_end():
    goal = make_goal([(TOUCHED, "red moon", 1.0, THINGS), (CLOSER, "yes", 0.5)])
    batch, arrays = goal_batch([goal], TOKENIZER, 16)
    ids = batch.answer_ids
    assert ids.ndim == 4 and ids.shape[:3] == (1, 2, 3)
    things, pair = (
        encode_answers(TOKENIZER, THINGS),
        encode_answers(TOKENIZER, ("no", "yes")),
    )
    np.testing.assert_array_equal(ids[0, 0], things)
    np.testing.assert_array_equal(ids[0, 1, :, :1], [*pair, pair[-1]])
    assert not ids[0, 1, :, 1:].any()
    np.testing.assert_array_equal(arrays.offered[0], [[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    "normalise", ("answers", pytest.param("vocabulary", marks=pytest.mark.slow))
)
def test_a_planner_values_what_asking_says(model, normalise):
    goals = [
        make_goal([(TOUCHED, "red moon", 1.0, THINGS), (CLOSER, "yes", 0.5)]),
        make_goal([(CLOSER, "no", 0.7), (TOUCHED, "nothing", 0.3, THINGS[:2])]),
    ]
    planner = get_planner(
        "random_shooting",
        candidates=3,
        horizon=4,
        sub_chunk=2,
        execute=2,
        score="probability",
        normalise=normalise,
        carry=1,
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    arguments = goal_batch(goals, TOKENIZER, model.config.max_question_tokens)
    _, _, info = planner.plan(
        model,
        Observation(image=images),
        *arguments,
        planner.init_state(2),
        jax.random.key(3),
    )
    expected = np.zeros((2, 3))
    for s, goal in enumerate(goals):
        for n in range(3):
            for q, asked in enumerate(goal.questions):
                heard = answer_batch(
                    model,
                    images[s : s + 1],
                    info.candidates[s, n][None],
                    [[asked.text]],
                    (2, 4),
                    goal.answer_sets[q],
                    normalise=normalise,
                    tokenizer=TOKENIZER,
                )
                chances = heard.choice_probabilities[0, :, 0, goal.answers[q]]
                expected[s, n] += goal.weights[q] * chances.sum()
    np.testing.assert_allclose(info.values, expected, rtol=1e-4)
    apart = np.ptp(expected, axis=1) / expected.mean(1)
    assert apart.min() > 1e-3  # candidates are told apart


def test_answers_that_nobody_knows_are_named():
    goal = make_goal([(TOUCHED, "9 € µ", 1.0, ("9 € µ", "nothing"))])
    with pytest.raises(ValueError, match="does not know"):
        goal_batch([goal], TOKENIZER, 16)
