"""Tasks start as the benchmark says, are won as it says; the pusher wins them."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swm_jax import worlds
from swm_jax.envs.scene import Scene, block_id
from swm_jax.worlds.board.oracle import oracle_action
from swm_jax.worlds.board.overlap import block_gap
from swm_jax.worlds.board.tasks import TASK_NAMES, make_task

ENV = worlds.load_env(backend="mujoco")
PAIRS = {
    ("green cube", "blue moon"),
    ("red moon", "green star"),
    ("red pentagon", "blue moon"),
    ("yellow pentagon", "red moon"),
    ("yellow star", "blue cube"),
}


def distances(scene, names):
    """From the first named block to the others, and to the peg."""
    slot = [scene.block_id.tolist().index(block_id(name)) for name in names]
    place = scene.block_pose[slot, :2].astype(np.float64)
    peg = np.hypot(*(place[0] - scene.peg))
    return [np.hypot(*(place[0] - other)) for other in place[1:]], peg


@pytest.mark.parametrize("name", TASK_NAMES)
@given(seed=st.integers(0, 10**6))
def test_starts_are_lost_apart_and_at_rest(name, seed):
    task = make_task(name, seed=seed)
    state = task.reset(ENV, jax.random.key(seed))
    scene = ENV.scene(state)
    assert not task.success(scene)
    assert np.linalg.norm(scene.block_pose[:, :2] - scene.peg, axis=-1).min() > 0.06
    i, j = np.triu_indices(8, 1)
    gaps = block_gap(scene.block_pose[i], i, scene.block_pose[j], j)
    assert np.min(gaps) > 0.0
    rest = ENV.step(state, np.zeros(2))
    np.testing.assert_array_equal(rest.qpos, state.qpos)


@given(st.integers(0, 10**6))
def test_separate_starts_against_its_neighbours(seed):
    task = make_task("separate", seed=seed)
    scene = ENV.scene(task.reset(ENV, jax.random.key(seed)))
    apart, _ = distances(scene, task.names)
    assert len(apart) == 2 and max(apart) < 0.05
    assert task.slots[0] == seed % 8


@given(st.integers(0, 10**6))
def test_block_to_block_starts_at_least_6_centimetres_apart(seed):
    task = make_task("block_to_block", seed=seed)
    assert task.names in PAIRS
    scene = ENV.scene(task.reset(ENV, jax.random.key(seed)))
    assert distances(scene, task.names)[0][0] >= 0.065


def test_seeds_go_round_all_pairs_and_targets():
    named = {make_task("block_to_block", seed=s).names for s in range(6000, 6005)}
    assert named == PAIRS
    for name in ("reach", "separate"):
        firsts = {make_task(name, seed=s).names[0] for s in range(6000, 6008)}
        assert len(firsts) == 8


@given(st.integers(0, 10**6), st.sampled_from(TASK_NAMES))
def test_success_is_the_written_rule(seed, name):
    rng = np.random.default_rng(seed)
    task = make_task(name, seed=seed)
    lead = (2, 3)
    ids = np.broadcast_to(np.array(ENV.block_ids), (*lead, 8))
    pose = rng.uniform(-0.06, 0.06, (*lead, 8, 3)).astype(np.float32)
    scenes = Scene(pose, ids, rng.uniform(-0.06, 0.06, (*lead, 2)).astype(np.float32))
    won = np.asarray(task.success(scenes))
    assert won.shape == lead
    for index in np.ndindex(lead):
        one = jax.tree.map(lambda x: x[index], scenes)  # noqa: B023
        apart, peg = distances(one, task.names)
        expected = {
            "reach": peg < 0.05,
            "separate": apart and min(apart) > 0.1,
            "block_to_block": apart and apart[0] < 0.065,
        }[name]
        assert won[index] == bool(expected)


def test_reset_batch_is_reset_of_each_key():
    keys = jax.random.split(jax.random.key(2), 3)
    for name in TASK_NAMES:
        task = make_task(name, seed=11)
        batch = task.reset_batch(ENV, keys)
        for i, key in enumerate(keys):
            one = task.reset(ENV, key)
            np.testing.assert_allclose(batch.qpos[i], one.qpos, atol=1e-6)


def test_names_and_sets_are_checked():
    with pytest.raises(ValueError, match=r"'reech' .did you mean 'reach'"):
        make_task("reech")
    with pytest.raises(ValueError, match=r"'red mon' .did you mean 'red moon'"):
        make_task("reach", target="red mon")
    with pytest.raises(ValueError, match="pair is 5, expected 0 to 4"):
        make_task("block_to_block", pair=5)
    with pytest.raises(ValueError, match="expected two different blocks"):
        make_task("block_to_block", pair=("red moon", "red moon"))
    unseen = make_task("reach", target="red cube", block_set="unseen")
    with pytest.raises(ValueError, match="red cube, which is not among the env's"):
        unseen.reset(ENV, jax.random.key(0))


def test_pusher_brings_blocks_together():
    """At least 9 of 10 within the task's 120 steps."""
    seeds = range(7000, 7010)
    tasks = [make_task("block_to_block", seed=seed) for seed in seeds]
    starts = [t.reset(ENV, jax.random.key(s)) for t, s in zip(tasks, seeds)]
    states = jax.tree.map(lambda *x: np.stack(x), *starts)
    ids = np.array([[block_id(name) for name in task.names] for task in tasks])
    act = jax.jit(jax.vmap(oracle_action))
    won = np.zeros(10, bool)
    for t in range(tasks[0].max_steps):
        keys = jax.random.split(jax.random.key(t), 10)
        actions = np.asarray(act(ENV.scene(states), ids[:, 0], ids[:, 1], keys))
        assert np.linalg.norm(actions, axis=-1).max() <= 0.03 + 1e-6
        states = ENV.step_batch(states, actions)
        scene = ENV.scene(states)
        won |= [
            bool(task.success(jax.tree.map(lambda x: x[i], scene)))  # noqa: B023
            for i, task in enumerate(tasks)
        ]
        if won.all():
            break
    assert won.sum() >= 9
