"""Push-T on both engines: poses, pushes, friction, resets."""

import jax
import numpy as np
import pytest

from swm_jax import worlds
from swm_jax.worlds.pusht import geometry
from swm_jax.worlds.pusht.overlap import coverage, from_handle, t_gap, to_table
from swm_jax.worlds.pusht.scene import Scene

STEPS = 40
MEDIAN_TOLERANCE = 0.0003  # metres, over worlds
WORST_TOLERANCE = 0.005


@pytest.fixture(scope="module")
def engine():
    return worlds.load_env("pusht", backend="mujoco")


def scene_of(pose, peg) -> Scene:
    """One scene with a leading axis."""
    return Scene(
        np.float32([[pose]]), np.zeros((1, 1), np.int32), np.float32(peg)[None]
    )


def pushes(scene, steps, rng):
    """Open-loop pushes of 0.02 m per step through where the T was."""
    peg = scene.peg.copy()
    out = np.zeros((len(peg), steps, 2), np.float32)
    for t in range(steps):
        way = scene.block_pose[:, 0, :2] - peg
        way /= np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-6)
        out[:, t] = 0.02 * way + rng.normal(0, 0.006, way.shape)
        peg += out[:, t]
    return out


def test_engines_agree_after_40_steps_of_pushing(engine):
    mjx = worlds.load_env("pusht", backend="mjx")
    keys = jax.random.split(jax.random.key(0), 8)
    state = mjx.reset_batch(keys)
    jax.tree.map(np.testing.assert_array_equal, state, engine.reset_batch(keys))
    actions = pushes(
        engine.scene(engine.native(state)), STEPS, np.random.default_rng(0)
    )
    ours = jax.tree.map(np.asarray, mjx.rollout_batch(state, actions))
    theirs = engine.rollout_batch(state, actions)
    assert ours.block_pose.shape == theirs.block_pose.shape == (8, STEPS + 1, 1, 3)
    moved = theirs.block_pose[:, -1, 0] - theirs.block_pose[:, 0, 0]
    assert np.linalg.norm(moved[:, :2], axis=-1).min() > 0.01
    error = (ours.block_pose - theirs.block_pose)[:, -1, 0, :2]
    error = np.linalg.norm(error, axis=-1)
    assert np.median(error) < MEDIAN_TOLERANCE
    assert error.max() < WORST_TOLERANCE
    np.testing.assert_allclose(ours.peg, theirs.peg, atol=1e-3)


@pytest.mark.parametrize("beside", [0.0, 0.02, -0.045])
def test_a_slow_push_moves_and_turns_the_t_as_mechanics_says(engine, beside):
    """Pushed on the bar's long edge, along the stem, `beside` metres off the middle."""
    middle = np.float32([0.256, 0.256])
    pose = np.float32([*middle, 0.0])
    gap = geometry.PEG_RADIUS + 0.001
    peg = middle + [beside, geometry.HANDLE[1] + gap]
    start = engine.state_from_scene(scene_of(pose, peg))
    actions = np.tile(np.float32([0.0, -0.003]), (1, 4, 1))
    end = engine.rollout_batch(start, actions).block_pose[0, -1, 0]
    down, turn = middle[1] - end[1], end[2]
    assert down > 0.004
    # Impulse J down at x = beside: v = J / mass, w = -beside J / (mass g^2).
    expected = -beside / geometry.GYRATION**2 * down
    np.testing.assert_allclose(turn, expected, atol=0.04 + 0.1 * abs(expected))


def test_the_t_does_not_glide_on_when_the_peg_stops(engine):
    pose, peg = [0.256, 0.3, 0.0], [0.256, 0.3 + geometry.HANDLE[1] + 0.016]
    state = engine.state_from_scene(scene_of(pose, peg))
    for _ in range(4):
        state = engine.step_batch(state, np.float32([[0.0, -0.03]]))
    assert state.qpos[0, 1] < 0.28
    for _ in range(6):  # what the push had put the peg behind its target
        before = state.qpos.copy()
        state = engine.step_batch(state, np.zeros((1, 2), np.float32))
        moved = state.qpos[0] - before[0]
        np.testing.assert_allclose(moved[1], moved[4], atol=1e-4)
    np.testing.assert_allclose(moved, 0.0, atol=1e-5)


def test_fast_random_pushing_keeps_peg_and_t_apart_and_on_the_table(engine):
    states = engine.reset_batch(jax.random.split(jax.random.key(3), 16))
    rng = np.random.default_rng(0)
    scene = engine.scene(states)
    actions = np.concatenate([pushes(scene, 30, rng) for _ in range(2)], 1) * 1.5
    path = engine.rollout_batch(states, actions)
    gap = t_gap(path.block_pose[..., 0, :], path.peg) - geometry.PEG_RADIUS
    assert -0.006 < gap.min() < 0.0
    low, high = geometry.T_BOX
    place = path.block_pose[..., 0, :2]
    assert (place > low - 0.01).all() and (place < high + 0.01).all()


def test_resets_are_those_of_gym_pusht_on_a_free_place(engine):
    states = engine.reset_batch(jax.random.split(jax.random.key(1), 500))
    scene = engine.scene(states)
    pose = scene.block_pose[:, 0]
    gap = t_gap(pose, scene.peg) - geometry.PEG_RADIUS
    assert gap.min() > 0.0099
    corners = to_table(pose[:, None], geometry.OUTLINE)
    assert corners.min() >= 0.0 and corners.max() <= geometry.SIDE
    # gym_pusht: (u, v) of the agent in 50..450; v is down.
    u, v = scene.peg[:, 0], geometry.SIDE - scene.peg[:, 1]
    assert 0.05 <= min(u.min(), v.min()) < 0.07
    assert 0.43 < max(u.max(), v.max()) <= 0.45
    quarters = np.histogram(pose[:, 2], np.linspace(-np.pi, np.pi, 5))[0]
    assert quarters.min() > 90


def test_the_goal_is_gym_pushts(engine):
    """There the goal is (256, 256, 45 degrees), of the middle of the bar's edge."""
    handle = np.float32([0.256, geometry.SIDE - 0.256])
    pose = from_handle(handle, np.float32(-np.pi / 4))
    np.testing.assert_allclose(pose, geometry.GOAL_POSE, atol=1e-6)
    # The stem points to the lower left of the picture.
    tip = to_table(pose, np.float32([0.0, geometry.OUTLINE[3, 1]]))
    assert (tip < pose[:2]).all()
    np.testing.assert_allclose(tip[0], tip[1], atol=1e-6)


def test_a_state_made_of_a_scene_is_that_scene(engine):
    scene = engine.scene(engine.reset_batch(jax.random.split(jax.random.key(2), 3)))
    again = engine.scene(engine.state_from_scene(scene))
    jax.tree.map(np.testing.assert_array_equal, again, scene)


def test_the_scripted_pusher_covers_most_of_the_goal(engine):
    world = worlds.load("pusht")
    act = jax.jit(jax.vmap(lambda s, k: world.policies.expert(None, s, None, 0, k)))
    states = engine.reset_batch(jax.random.split(jax.random.key(0), 8))
    best = np.zeros(8)
    for t in range(100):
        scene = engine.scene(states)
        best = np.maximum(best, coverage(scene.block_pose[:, 0]))
        action = act(scene, jax.random.split(jax.random.key(t), 8))
        states = engine.step_batch(states, np.asarray(action))
    assert np.median(best) > 0.8
