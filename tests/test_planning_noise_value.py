"""Noise has the promised colour; values are the promised sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swm_jax.planning import FakeWorldModel, chunk_value, desired_scores
from swm_jax.planning.noise import coloured_noise, mixing_matrix, strokes


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
