"""Statistics of the evaluation against scipy, closed forms and simulation."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from swm_jax.eval import statistics


@given(st.integers(1, 400), st.data())
def test_wilson_interval_holds_the_rates_that_the_score_test_keeps(episodes, data):
    """Its ends are where (rate - p)^2 = z^2 p (1 - p) / n."""
    successes = data.draw(st.integers(0, episodes))
    low, high = statistics.wilson_interval(successes, episodes)
    rate, z = successes / episodes, 1.959964
    for end in (low, high):
        np.testing.assert_allclose(
            (rate - end) ** 2, z**2 * end * (1 - end) / episodes, atol=1e-6
        )
    assert 0 <= low <= rate <= high <= 1


def test_wilson_interval_of_nothing_says_nothing():
    assert statistics.wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="6 successes of 5"):
        statistics.wilson_interval(6, 5)


@given(st.lists(st.integers(-3, 3), min_size=3, max_size=30), st.integers(0, 99))
def test_spearman_correlates_how_many_are_below(values, seed):
    a = np.array(values, float)
    b = np.random.default_rng(seed).integers(0, 4, len(a)).astype(float)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(statistics.spearman(a, b))
    else:  # a rank is the count of those below, and half of those beside
        rank = lambda x: (x[:, None] > x).sum(1) + (x[:, None] == x).sum(1) / 2
        expected = np.corrcoef(rank(a), rank(b))[0, 1]
        np.testing.assert_allclose(statistics.spearman(a, b), expected, atol=1e-12)


def test_balanced_accuracy_does_not_reward_the_majority():
    # Type 0: 90 no, 10 yes; type 1: 5 of each. Saying no always is 50 %.
    truth = np.array([False] * 90 + [True] * 10 + [False] * 5 + [True] * 5)
    kind = np.array([0] * 100 + [1] * 10)
    silent = np.zeros(110, bool)
    assert (silent == truth).mean() > 0.85
    assert statistics.balanced_accuracy(silent, truth, kind) == 0.5
    # All of type 0 right, type 1 right on its yes's only: mean of 1 and 0.5.
    said = np.where(kind == 0, truth, True)
    assert statistics.balanced_accuracy(said, truth, kind) == 0.75


def test_reliability_of_an_honest_forecaster_is_the_diagonal():
    rng = np.random.default_rng(0)
    probability = rng.random(200_000)
    truth = rng.random(200_000) < probability
    curve = statistics.reliability(probability, truth)
    assert curve["ece"] < 0.01
    assert sum(b["count"] for b in curve["bins"]) == 200_000
    for b in curve["bins"]:
        assert b["low"] <= b["mean_probability"] <= b["high"]


def test_calibration_error_of_a_liar_is_what_he_is_off():
    truth = np.arange(100) < 50
    curve = statistics.reliability(np.full(100, 0.9), truth)
    np.testing.assert_allclose(curve["ece"], 0.4)


@given(st.floats(0.2, 6.0), st.integers(0, 10_000))
def test_temperature_undoes_a_scale(scale, seed):
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=4000) * 2
    truth = rng.random(4000) < 1 / (1 + np.exp(-logit))
    found = statistics.fit_temperature(logit * scale, truth)
    # The loss is least where its slope vanishes; logs of saturated sigmoids, which
    # a direct minimisation would meet, do not occur there.
    slope = scipy.optimize.brentq(
        lambda s: ((scipy.special.expit(s * logit) - truth) * logit).sum(), 0.05, 20.0
    )
    np.testing.assert_allclose(found, scale / slope, rtol=1e-3)


def test_bootstrap_interval_covers_the_mean():
    values = np.random.default_rng(1).normal(3.0, 1.0, 400)
    low, high = statistics.bootstrap_interval(values)
    error = values.std() / 20
    expected = values.mean() + 1.96 * error * np.array([-1, 1])
    np.testing.assert_allclose([low, high], expected, atol=0.4 * error)
