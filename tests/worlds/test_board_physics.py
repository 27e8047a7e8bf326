"""The board on the C engine: pushing, friction, walls, batches, bad input."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swm_jax import worlds
from swm_jax.worlds.board import geometry
from swm_jax.worlds.board.model import BLOCK_BOUNDS, block_radius, collision_capsules
from swm_jax.worlds.board.overlap import block_gap
from swm_jax.worlds.board.scene import BLOCK_SETS, SLOT_SHAPES, Scene

ENV = worlds.load_env(backend="mujoco")
CUBE = 4


def alone(block_xy, peg_xy, yaw=0.0, slot=CUBE):
    """One block and the peg; the others in a row out of the way."""
    pose = np.zeros((8, 3), np.float32)
    pose[:, 0] = np.linspace(0.19, 0.56, 8)
    pose[:, 1] = 0.26
    pose[slot] = (*block_xy, yaw)
    return ENV.state_from_scene(
        Scene(pose, np.array(ENV.block_ids), np.array(peg_xy, np.float32))
    )


def play(state, *actions):
    for action in actions:
        state = ENV.step(state, np.array(action, np.float32))
    return state


def starts(count, seed=0):
    return ENV.reset_batch(jax.random.split(jax.random.key(seed), count))


def peg_gap(block_pose, peg):
    """Metres from the peg's rim to the nearest collision capsule, in numpy."""
    gaps = []
    for shape, (x, y, yaw) in zip(SLOT_SHAPES, block_pose):
        turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
        local = turn @ (peg - (x, y))
        for x0, y0, x1, y1, radius in collision_capsules(shape):
            share = np.linspace(0.0, 1.0, 50)[:, None]
            axis = np.array([x0, y0]) * (1 - share) + np.array([x1, y1]) * share
            gaps.append(np.linalg.norm(axis - local, axis=-1).min() - radius)
    return min(gaps) - geometry.PEG_RADIUS


def test_peg_covers_91_percent_of_a_step_and_the_rest_in_the_next():
    state = alone((0.4, 0.1), (0.3, -0.2))
    once = play(state, (0.0, 0.03))
    twice = play(once, (0.0, 0.0))
    start = state.qpos[25]
    np.testing.assert_allclose((once.qpos[25] - start) / 0.03, 0.91, atol=0.005)
    np.testing.assert_allclose((twice.qpos[25] - start) / 0.03, 0.99, atol=0.01)


def test_off_centre_push_turns_the_block_as_a_free_rigid_cube_does():
    """Reference: free mesh, 0.001 s steps; 15, 51, 76, 76 degrees at 0, 3, 6, 10 mm."""
    turns = []
    for offset in (0.0, 0.003, 0.006, 0.010):
        state = alone((0.32, 0.0), (0.26, offset))
        state = play(state, *[(0.02, 0.0)] * 8, *[(0.0, 0.0)] * 3)
        turns.append(-np.degrees(ENV.scene(state).block_pose[CUBE, 2]))
    assert abs(turns[0]) < 15
    np.testing.assert_allclose(turns[1:], [51, 76, 76], atol=14)


def test_push_through_the_centre_carries_the_block_along():
    state = play(alone((0.3, 0.0), (0.25, 0.0)), *[(0.02, 0.0)] * 8)
    pose, peg = ENV.scene(state).block_pose[CUBE], ENV.scene(state).peg
    gap = pose[0] - peg[0] - 0.01985 - geometry.PEG_RADIUS
    assert pose[0] > 0.4 and -0.002 < gap < 0.01


def test_friction_stops_a_sliding_block_after_v_squared_over_2_mu_g():
    state = alone((0.3, 0.0), (0.2, -0.2))
    qvel = state.qvel.copy()
    qvel[3 * CUBE] = 0.4
    end = play(state.replace(qvel=qvel), (0.0, 0.0))
    slid = end.qpos[3 * CUBE] - 0.3
    expected = 0.4**2 / (2 * 0.5 * 9.81)
    np.testing.assert_allclose(slid, expected, atol=0.4 * 0.01)  # one step of v0
    assert end.qvel[3 * CUBE] == 0.0


def test_untouched_blocks_stay_exactly_where_they_are():
    state = starts(4)
    still = ENV.step_batch(state, np.zeros((4, 2)))
    np.testing.assert_array_equal(still.qpos, state.qpos)


@pytest.mark.parametrize("limit", [0.03, 0.1])
def test_fastest_pushes_stay_stable_and_on_the_board(limit):
    rng = np.random.default_rng(0)
    way = np.repeat(rng.choice([-limit, 0.0, limit], (24, 10, 2)), 6, axis=1)
    scene = ENV.rollout_batch(starts(24), way.astype(np.float32))
    pose = scene.block_pose
    assert np.isfinite(pose).all() and np.isfinite(scene.peg).all()
    low, high = BLOCK_BOUNDS
    assert (pose[..., :2] > np.array(low) - 0.02).all()
    assert (pose[..., :2] < np.array(high) + 0.02).all()
    jump = np.linalg.norm(np.diff(pose[..., :2], axis=1), axis=-1)
    assert jump.max() < 0.2
    settled = ENV.state_from_scene(jax.tree.map(lambda x: x[:, -1], scene))
    for _ in range(10):
        settled = ENV.step_batch(settled, np.zeros((24, 2)))
    pose = ENV.scene(settled).block_pose
    i, j = np.triu_indices(8, 1)
    assert block_gap(pose[:, i], i, pose[:, j], j).min() > -0.001
    assert np.abs(settled.qvel).max() < 0.05


def test_peg_does_not_sink_into_blocks_even_against_walls():
    """Pushed on and on, blocks end up squeezed between peg and wall."""
    state, gaps = starts(16, seed=3), []
    for _ in range(25):
        scene = ENV.scene(state)
        place = scene.block_pose[..., :2]
        nearest = np.argmin(np.linalg.norm(place - scene.peg[:, None], axis=-1), 1)
        way = place[np.arange(16), nearest] - scene.peg
        way *= 0.03 / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-6)
        state = ENV.step_batch(state, way)
        scene = ENV.scene(state)
        gaps += list(map(peg_gap, scene.block_pose, scene.peg))
    sunk = -np.minimum(gaps, 0.0)
    assert (np.array(gaps) < 0.001).mean() > 0.3  # it did push
    assert sunk.mean() < 0.0005 and sunk.max() < 0.007


@given(st.integers(0, 2**31 - 1))
def test_reset_keeps_blocks_apart_and_clear_of_the_peg(seed):
    scene = ENV.scene(ENV.reset(jax.random.key(seed)))
    place = scene.block_pose[:, :2]
    radius = np.array([block_radius(shape) for shape in SLOT_SHAPES])
    apart = np.linalg.norm(place[:, None] - place, axis=-1)
    gap = apart - radius[:, None] - radius
    assert gap[np.triu_indices(8, 1)].min() > 0.0175
    assert np.linalg.norm(place - scene.peg, axis=-1).min() > 0.06
    assert (place >= np.array(BLOCK_BOUNDS[0])).all()
    assert (place <= np.array(BLOCK_BOUNDS[1])).all()


@pytest.mark.usefixtures("optimised")
@given(st.integers(0, 1000), st.sampled_from([1, 3]))
def test_a_batch_is_its_worlds_one_by_one(seed, worlds):
    keys = jax.random.split(jax.random.key(seed), worlds)
    together = ENV.reset_batch(keys)
    single = [ENV.reset(key) for key in keys]
    rng = np.random.default_rng(seed)
    for _ in range(3):
        actions = rng.uniform(-0.1, 0.1, (worlds, 2)).astype(np.float32)
        together = ENV.step_batch(together, actions)
        single = [ENV.step(s, a) for s, a in zip(single, actions)]
    alone = jax.tree.map(lambda *x: np.stack(x), *single)
    jax.tree.map(np.testing.assert_array_equal, together, alone)


def test_rollout_is_its_steps_bit_for_bit():
    actions = np.random.default_rng(1).uniform(-0.1, 0.1, (6, 12, 2))
    state = starts(6)
    path = ENV.rollout_batch(state, actions)
    for t in range(13):
        now = jax.tree.map(lambda x: x[:, t], path)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, now, ENV.scene(state))
        if t < 12:
            state = ENV.step_batch(state, actions[:, t])
    assert state.step.tolist() == [12] * 6


def test_scene_and_state_turn_into_each_other():
    state = starts(3)
    again = ENV.state_from_scene(ENV.scene(state))
    jax.tree.map(np.testing.assert_array_equal, state, again)


def test_actions_are_clipped_to_the_box_and_the_target_to_the_board():
    state = alone((0.3, 0.0), (0.2, -0.2))
    jax.tree.map(
        np.testing.assert_array_equal,
        play(state, (7.0, 0.0)),
        play(state, (0.1, 0.0)),
    )
    state = play(state, *[(-0.1, -0.1)] * 6)
    np.testing.assert_allclose(state.target, [0.15, -0.3048], atol=1e-6)


def test_actions_of_the_wrong_width_are_refused():
    state = starts(2)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(2, 2\)"):
        ENV.step_batch(state, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(2,\)"):
        ENV.step(jax.tree.map(lambda x: x[0], state), np.zeros(3))
    with pytest.raises(ValueError, match=r"expected \(2, 5, 2\)"):
        ENV.rollout_batch(state, np.zeros((3, 5, 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_not_finite_are_refused(value):
    actions = np.zeros((2, 4, 2))
    actions[1, 3, 0] = value
    with pytest.raises(ValueError, match=rf"action\[1, 3, 0\] is {value}"):
        ENV.rollout_batch(starts(2), actions)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ValueError, match=r"unknown world 'bord' .did you mean 'board'"):
        worlds.load_env("bord")
    with pytest.raises(ValueError, match=r"unknown backend 'mujuco'.*'mujoco'"):
        worlds.load_env(backend="mujuco")
    with pytest.raises(ValueError, match=r"unknown setting.*'blockset'.*'block_set'"):
        worlds.load_env(blockset="unseen")
    with pytest.raises(ValueError, match=r"unknown block set 'unsen'.*'unseen'"):
        worlds.load_env(block_set="unsen")
    with pytest.raises(ValueError, match=r"physics_dt is 0\.03 s, expected.*divides"):
        worlds.load_env(physics_dt=0.03)


def test_unseen_blocks_lie_on_the_board():
    env = worlds.load_env(backend="mujoco", block_set="unseen")
    key = jax.random.key(0)
    unseen, standard = env.reset(key), ENV.reset(key)
    assert unseen.block_id.tolist() == list(BLOCK_SETS["unseen"])
    np.testing.assert_array_equal(unseen.qpos, standard.qpos)
