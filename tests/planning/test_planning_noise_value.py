"""Noise has the promised colour; values are the promised sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swm_jax import worlds
from swm_jax.models import Observation
from swm_jax.planning import (
    FakeWorldModel,
    GoalArrays,
    chunk_value,
    desired_scores,
    get_planner,
)
from swm_jax.planning.goals.question_batch import goal_batch
from swm_jax.planning.noise import coloured_noise, mixing_matrix, strokes
from swm_jax.questions import FreeQuestion, make_goal

BOARD = worlds.language("board")


@given(st.integers(1, 40), st.floats(0.0, 4.0))
def test_noise_has_variance_one_at_every_step(horizon, exponent):
    matrix = mixing_matrix(horizon, exponent)
    np.testing.assert_allclose((matrix**2).sum(1), 1.0, rtol=1e-5)


def test_white_noise_is_independent_between_steps():
    matrix = mixing_matrix(16, 0.0)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=1e-5)


@pytest.mark.parametrize("exponent", (1.0, 2.0, 3.0))
def test_power_falls_as_the_promised_power_of_frequency(exponent):
    # A chunk of H steps is the first half of a period of 2 H: look at a whole period.
    horizon = 64
    matrix = mixing_matrix(horizon, exponent)
    covariance = (matrix @ matrix.T)[0]  # lag 0 .. H-1, symmetric about lag H
    k = np.arange(1, horizon)
    power = np.maximum(k, 1) ** -float(exponent)
    lags = np.arange(horizon)[:, None]
    # lag 0 to H-1 of a process with that power plus its constant and Nyquist terms
    total = power.sum() + 0.5 + 0.5 * horizon**-exponent
    expected = (
        (power * np.cos(np.pi * lags * k / horizon)).sum(1)
        + 0.5
        + 0.5 * horizon**-exponent * np.cos(np.pi * lags[:, 0])
    ) / total
    np.testing.assert_allclose(covariance, expected, atol=1e-4)


def test_redder_noise_leads_further():
    reach = lambda exponent: float(
        jnp.linalg.norm(
            coloured_noise(jax.random.key(0), (500, 16, 2), exponent).sum(1), axis=-1
        ).mean()
    )
    assert reach(0.0) * 1.5 < reach(1.0) < reach(2.0) < reach(3.0)


def test_strokes_are_at_most_two_straight_lines_inside_the_box():
    lines = np.asarray(strokes(jax.random.key(1), (200, 16, 2), 0.03))
    assert np.abs(lines).max() <= 0.03 + 1e-7
    bends = np.any(np.diff(lines, axis=1) != 0, -1).sum(1)
    assert bends.max() == 1
    assert np.abs(lines).max((1, 2)).min() >= 0.3 * 0.03 - 1e-7


@given(st.integers(0, 2**31 - 1))
def test_value_is_the_weighted_sum(seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(2, 3, 2, 4)).astype(np.float32)
    weights = rng.normal(size=(2, 4)).astype(np.float32)
    values, bad = chunk_value(jnp.array(scores), jnp.array(weights))
    for s in range(2):
        for n in range(3):
            total = sum(
                weights[s, q] * scores[s, n, k, q] for k in range(2) for q in range(4)
            )
            np.testing.assert_allclose(values[s, n], total, atol=1e-4)
    assert not bad.any()


def test_nan_counts_only_where_its_question_weighs_something():
    scores = jnp.zeros((1, 2, 1, 2)).at[0, 0, 0, 1].set(jnp.nan)
    values, bad = chunk_value(scores, jnp.array([[1.0, 0.0]]))
    assert np.isfinite(values).all() and not bad.any()
    values, bad = chunk_value(scores, jnp.array([[1.0, 0.5]]))
    assert bad.tolist() == [[True, False]] and np.isneginf(values[0, 0])


@pytest.mark.parametrize("answer", (0, 1))
def test_scores_follow_from_the_margin(answer):
    model = FakeWorldModel(goal=jnp.array([0.1, 0.0]))
    actions = jax.random.normal(jax.random.key(0), (1, 20, 16, 2)) * 0.01
    answers = jnp.array([[answer]])
    context = jnp.zeros((1, 1))
    score = lambda name: np.asarray(
        desired_scores(model, context, actions, answers, (8, 16), name)
    )
    # The margin, worked out from the model's definition.
    sums = np.stack([np.asarray(actions)[:, :, :h].sum(2) for h in (8, 16)], 2)
    yes = 1.0 - ((sums - [0.1, 0.0]) ** 2).sum(-1) / 1e-3
    margin = (yes if answer else -yes)[..., None]
    np.testing.assert_allclose(score("margin"), margin, atol=1e-3)
    p = 1 / (1 + np.exp(-margin))
    np.testing.assert_allclose(score("probability"), p, atol=1e-4)
    np.testing.assert_allclose(
        score("log_probability"), -np.logaddexp(0, -margin), atol=1e-3
    )
    np.testing.assert_allclose(score("tanh_margin"), np.tanh(margin / 4), atol=1e-3)


class Table:
    """Logits of a table [S, Q, C], whatever the actions are."""

    def __init__(self, logits):
        self.logits = jnp.asarray(logits)

    def answer_logits(self, context, actions, horizons):
        shape = (*actions.shape[:2], len(horizons), *self.logits.shape[1:])
        return jnp.broadcast_to(self.logits[:, None, None], shape)

    def answer_log_probs(self, context, actions, horizons, normalise="answers"):
        logits = self.answer_logits(context, actions, horizons)
        spare = 0.0 if normalise == "answers" else 3.0  # mass on other words
        return jax.nn.log_softmax(logits) - spare


@given(st.integers(0, 2**31 - 1))
def test_answers_that_only_fill_up_the_array_take_no_share(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(1, 2, 3))
    logits[0, 0, 2] = logits[0, 0, 1]  # the first question has two answers
    offered = np.array([[[True, True, False], [True, True, True]]])
    answers = np.array([[rng.integers(2), rng.integers(3)]])
    score = lambda name, normalise="answers": np.asarray(
        desired_scores(
            Table(logits), None, jnp.zeros((1, 1, 4, 2)), jnp.asarray(answers), (4,),
            name, normalise, offered=jnp.asarray(offered),
        )
    )[0, 0, 0]  # fmt: skip
    for q, count in ((0, 2), (1, 3)):
        row, wanted = logits[0, q, :count], answers[0, q]
        others = np.delete(row, wanted)
        p = np.exp(row[wanted]) / np.exp(row).sum()
        margin = row[wanted] - np.log(np.exp(others).sum())
        np.testing.assert_allclose(score("probability")[q], p, rtol=1e-4)
        np.testing.assert_allclose(score("log_probability")[q], np.log(p), atol=1e-4)
        np.testing.assert_allclose(score("margin")[q], margin, atol=1e-4)
        whole = np.exp(logits[0, q, wanted] - 3.0) / np.exp(logits[0, q]).sum()
        published = score("probability", "vocabulary")[q]
        np.testing.assert_allclose(published, whole, rtol=1e-4)


def test_goals_of_several_answer_sets_share_one_batch():
    many = FreeQuestion("How many blocks touch the peg?")
    touch = BOARD.question("peg_touching", "red moon")
    goals = [
        make_goal([(touch, "yes", 1.0), (many, "2", 0.5, ("0", "1", "2"))]),
        make_goal([(touch, "no", 1.0)]),
    ]
    batch, arrays = goal_batch(goals)
    assert batch.answer_ids.shape == (2, 2, 3)
    assert arrays.answers.tolist() == [[1, 2], [0, 0]]
    assert arrays.offered.tolist() == [
        [[True, True, False], [True, True, True]],
        [[True, True, False], [True, True, False]],
    ]
    assert batch.type_id[0, 1] == -1  # no predicate knows it
    assert goal_batch(goals[1:])[1].offered is None


def test_a_world_model_with_another_number_of_answers_is_refused():
    offered = jnp.ones((1, 1, 3), bool)
    ids = np.zeros((1, 1), np.int32)
    model = FakeWorldModel(goal=jnp.zeros(2))
    goal = GoalArrays(ids, np.ones((1, 1), np.float32), offered)
    batch, _ = goal_batch([make_goal([(BOARD.question("peg_moved"), "yes", 1.0)])])
    planner = get_planner("best_of_n")
    look = Observation(image=jnp.zeros((1, 1, 1, 3), jnp.uint8))
    with pytest.raises(ValueError, match="among 2 answers, the goal offers 3"):
        planner.plan(model, look, batch, goal, planner.init_state(1), jax.random.key(0))


def test_questions_that_fill_up_a_batch_change_no_bit_of_a_value():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(8, 16, 2, 5)).astype(np.float32)
    weights = rng.random((8, 5)).astype(np.float32)
    filler, none = np.ones((8, 16, 2, 4), np.float32), np.zeros((8, 4), np.float32)
    value = jax.jit(lambda scores, weights: chunk_value(scores, weights)[0])
    alone = value(scores, weights)
    filled = value(np.concatenate([scores, filler], -1), np.hstack([weights, none]))
    np.testing.assert_array_equal(alone, filled)
    np.testing.assert_array_equal(alone[:1], value(scores[:1], weights[:1]))
