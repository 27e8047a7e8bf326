"""Numeric questions about held-out episodes: balance, exact bins, errors in metres."""

import numpy as np
import pytest

from swm_jax import baselines, worlds
from swm_jax.eval.answers import accuracy, held_out, queries
from swm_jax.eval.answers.numeric import examine_numbers

BOARD = worlds.language("board")
DISTANCES = ("blocks_distance", "peg_distance", "block_moved_distance")


@pytest.fixture(scope="module")
def env():
    return worlds.load_env("board", backend="mujoco")


@pytest.fixture(scope="module")
def drawn(env):
    held = held_out.held_out_episodes(env, 6)
    return queries.draw_queries(held, BOARD, (0, 8, 16), 1200, types=DISTANCES)


def test_queries_are_spread_over_bins(drawn):
    assert set(drawn.type_id) == {BOARD.kind(name).id for name in DISTANCES}
    for name in DISTANCES:
        kind = BOARD.kind(name)
        inside, count = drawn.type_id == kind.id, len(kind.answers)
        asked = np.bincount(drawn.truth[inside], minlength=count)
        pool = drawn.pool[..., drawn.table.type_id == kind.id]
        occurs = np.bincount(pool.reshape(-1), minlength=count)
        assert asked.max() / asked.sum() < occurs.max() / occurs.sum()
        bins = kind.answers.index(drawn.margin[inside])
        np.testing.assert_array_equal(drawn.truth[inside], bins)


def test_the_truth_is_exact_and_needs_image_and_actions(env, drawn):
    truth = baselines.load("simulator", env)
    found = examine_numbers(drawn, accuracy.answer(truth, drawn), "a test")["per_type"]
    for name in DISTANCES:
        row = found[name]
        # It begins at rest, the data in motion: some end in the bin beside.
        assert row["model"]["exact"] > 0.9 and row["model"]["near"] > 0.99
        # What a bin rounds away is all that is left.
        assert row["model"]["error"] < 0.4 * row["median_error"]
        assert row["other_image"]["exact"] < 0.7
    assert found["block_moved_distance"]["no_action"]["exact"] < 0.8


def test_scores_are_those_of_a_hand_made_model(drawn):
    """One bin too far wherever there is one, with nearly half of the chance."""
    kind = BOARD.kind("peg_distance")
    rows, values = np.arange(len(drawn.truth)), np.array(kind.answers.values)
    beside = np.minimum(drawn.truth + 1, len(values) - 1)
    logits = np.full((len(rows), len(values)), -50.0)
    logits[rows, drawn.truth], logits[rows, beside] = 0.0, 1e-6
    found = examine_numbers(drawn, {"model": logits}, "a test")["per_type"][kind.name]
    mine = drawn.type_id == kind.id
    truth, metres, said = drawn.truth[mine], drawn.margin[mine], values[beside[mine]]
    assert found["model"]["exact"] == np.mean(truth == len(values) - 1)
    assert found["model"]["near"] == 1.0 and found["queries"] == mine.sum()
    error = np.abs(said - metres).mean()
    assert found["model"]["error"] == pytest.approx(error)
    error = np.abs((said + values[truth]) / 2 - metres).mean()
    assert found["model"]["mean_error"] == pytest.approx(error, abs=1e-4)
