"""The real Language-Table, where a checkout of its package is on PYTHONPATH."""

import jax
import numpy as np
import pytest

from swm_jax import worlds
from swm_jax.baselines.simulator import SimulatorWorldModel
from swm_jax.eval.episodes.host_loop import run_episodes
from swm_jax.planning import get_planner
from swm_jax.worlds.board.scene import Scene
from swm_jax.worlds.language_table.env import (
    LanguageTableMissing,
    available,
)


def real(test):
    missing = pytest.mark.skipif(not available(), reason="no language_table here")
    return pytest.mark.language_table(missing(test))


@pytest.mark.skipif(available(), reason="language_table is installed")
def test_without_the_package_the_env_says_what_is_missing():
    with pytest.raises(LanguageTableMissing, match="google-research's package"):
        worlds.load_env("language_table")


@pytest.fixture(scope="module")
def env():
    return worlds.load_env("language_table")


@real
def test_scene_is_what_its_own_state_says(env):
    state = env.reset(6000)
    own = env._env.compute_state()
    scene = env.scene(state)
    for slot, name in enumerate(("red_moon", "blue_moon")):
        np.testing.assert_allclose(
            scene.block_pose[slot, :2], own[f"block_{name}_translation"], atol=1e-6
        )
    np.testing.assert_allclose(scene.peg, own["effector_translation"], atol=1e-6)


@real
def test_placed_blocks_lie_where_our_simulator_has_them(env):
    board = worlds.load_env("board", backend="mujoco")
    start = board.reset(jax.random.key(3))
    placed = env.scene(env.native(start))
    wanted = board.scene(start)
    np.testing.assert_allclose(
        placed.block_pose[:, :2], wanted.block_pose[:, :2], atol=3e-3
    )
    np.testing.assert_allclose(placed.peg, wanted.peg, atol=5e-3)


@real
def test_worlds_side_by_side_go_the_way_each_goes_alone(env):
    starts = [env.reset(seed) for seed in (1, 2)]
    actions = np.random.default_rng(0).uniform(-0.02, 0.02, (2, 3, 2))
    alone = []
    for state, chunk in zip(starts, actions):
        for action in chunk:
            state = env.step(state, action)
        alone.append(env.scene(state))
    both = jax.tree.map(lambda *x: np.stack(x), *starts)
    together: Scene = env.rollout_batch(both, actions)
    for i in range(2):
        np.testing.assert_allclose(together.peg[i, -1], alone[i].peg, atol=2e-4)


@real
def test_a_planned_episode_in_its_env_reaches_the_block(env):
    (result,) = run_episodes(
        env,
        [("reach", 6000)],
        SimulatorWorldModel(worlds.load_env("board", backend="mujoco")),
        get_planner("mppi"),
        jax.random.key(0),
        max_steps=60,
    )
    assert result.success, (result.steps, result.values)
