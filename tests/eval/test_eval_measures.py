"""Answers, action sensitivity and held-out questions measure what they say."""

import dataclasses

import jax
import numpy as np
import pytest

from swm_jax import baselines, worlds
from swm_jax.eval.answers import accuracy as qa
from swm_jax.eval.answers import held_out, queries, sensitivity
from swm_jax.eval.config import preset
from swm_jax.eval.episodes import cells as planning

BOARD = worlds.language("board")


@pytest.fixture(scope="module")
def env():
    return worlds.load_env("board", backend="mujoco")


@pytest.fixture(scope="module")
def held(env):
    return held_out.held_out_episodes(env, 6)


def test_queries_are_balanced_within_type_and_horizon(held):
    drawn = queries.draw_queries(held, BOARD, (0, 8, 16), 1200)
    for kind in np.unique(drawn.type_id):
        for k in range(3):
            truth = drawn.truth[(drawn.type_id == kind) & (drawn.horizon == k)]
            assert abs((truth == 1).sum() - (truth == 0).sum()) <= 0.1 * len(truth) + 1
    now = drawn.type_id[drawn.horizon == 0]
    changes = [kind.id for kind in BOARD.types if kind.about_change]
    assert not np.isin(now, changes).any()  # nothing changes in no time
    assert len(np.unique(drawn.type_id)) >= 8
    again = queries.draw_queries(held, BOARD, (0, 8, 16), 1200)
    np.testing.assert_array_equal(drawn.question, again.question)


def test_the_truth_answers_almost_everything_and_only_from_image_and_actions(env, held):
    drawn = queries.draw_queries(held, BOARD, (0, 8, 16), 1200)
    truth = baselines.load("simulator", env)
    found = qa.examine(drawn, qa.answer(truth, drawn), "a test")
    assert found["balanced_accuracy"] > 0.95
    # Told that nothing is done, it says nothing changes: half of the changes are.
    for name in (kind.name for kind in BOARD.types if kind.about_change):
        if name in found["per_type"]:
            assert found["per_type"][name]["no_action"] < 0.65
    assert found["other_image"] < 0.75
    assert found["question_horizon_only"] < 0.7


def test_guessing_by_frequency_finds_a_shortcut_that_is_there(held):
    drawn = queries.draw_queries(held, BOARD, (8,), 1200)
    # Make the answer a function of the question: the table must see through it.
    leaky = np.broadcast_to(np.arange(drawn.pool.shape[2]) % 2 == 0, drawn.pool.shape)
    fake = dataclasses.replace(
        drawn, pool=np.array(leaky), truth=drawn.question % 2 == 0
    )
    assert (queries.guess_from_question(fake) == fake.truth).mean() > 0.97


def test_short_episodes_are_refused(held):
    short = held.replace(length=np.full_like(held.length, 5))
    with pytest.raises(ValueError, match=r"at most 5 steps.*horizon 16"):
        queries.draw_queries(short, BOARD, (0, 16), 100)


def test_sensitivity_of_the_truth_is_one_and_of_a_frozen_judge_nought(env):
    planner = planning.make_planner(preset("demo"), "mppi")
    measure = lambda world: sensitivity.measure(
        env, world, planner, ("reach",), 3, 16, "published"
    )
    truth = measure(baselines.load("simulator", env))
    np.testing.assert_allclose(truth["per_task"]["reach"]["rho"], 1.0, atol=1e-3)
    assert truth["per_task"]["reach"]["favourite_percentile"] == 1.0

    @jax.tree_util.register_static
    class Frozen:
        def encode(self, observation, questions):
            return questions.type_id

        def answer_log_probs(self, context, actions, horizons, normalise="answers"):
            shape = (*actions.shape[:2], len(horizons), context.shape[1], 2)
            return jax.numpy.full(shape, np.log(0.5))

        answer_logits = answer_log_probs

    frozen = measure(baselines.Answerer("frozen", "board", Frozen()))
    assert frozen["mean"] == 0.0 and frozen["scenes"] == 3


def test_questions_from_a_data_folder_are_about_its_held_out_split(tmp_path):
    from data_pipelines.generate.shards import generate
    from experiments.generate_board import get_config as data_config

    config = data_config("debug")
    config.episodes, config.min_steps, config.max_steps = 5, 10, 12
    generate(config, tmp_path / "data")
    held = held_out.stored_episodes(str(tmp_path / "data"), 10, "board")
    assert held.actions.shape[0] == 1 and held.length[0] >= 10
    assert held.scenes.block_pose.shape == (1, held.actions.shape[1] + 1, 8, 3)
    drawn = queries.draw_queries(held, BOARD, (0, 5, 10), 200)
    assert len(drawn.truth) > 0
