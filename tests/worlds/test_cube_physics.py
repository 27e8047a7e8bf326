"""The cube arm's physics: what is grasped stays grasped, what is stacked stays."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from swm_jax import worlds
from swm_jax.worlds.cube import env as cube_env
from swm_jax.worlds.cube import geometry
from swm_jax.worlds.cube.model import CONTACT, cube_model
from swm_jax.worlds.cube.scene import CUBES, CubeScene
from swm_jax.worlds.cube.tasks import make_task

CUBE = worlds.language("cube")

OPEN, CLOSE = -1.0, 1.0
FINGERS = ("left", "right")


@pytest.fixture(scope="module")
def env():
    return worlds.load_env("cube", backend="mujoco")


def laid_out(worlds: int, seed: int = 0, cubes: int = 4) -> CubeScene:
    """The open gripper around the red cube, a little off; the others far away."""
    rng = np.random.default_rng(seed)
    spots = np.array([[0.42, 0.0], [0.32, -0.2], [0.32, 0.2], [0.52, 0.2]])[:cubes]
    yaw = rng.uniform(-np.pi, np.pi, (worlds, cubes))
    pose = np.zeros((worlds, cubes, 7))
    pose[..., :2], pose[..., 2] = spots, geometry.CUBE_HALF
    pose[..., 3], pose[..., 6] = np.cos(yaw / 2), np.sin(yaw / 2)
    gripper = np.full((worlds, 6), geometry.MAX_GAP)
    gripper[:, :2] = spots[0] + rng.uniform(-0.008, 0.008, (worlds, 2))
    gripper[:, 2] = geometry.CUBE_HALF
    gripper[:, 3] = yaw[:, 0] + rng.uniform(-0.3, 0.3, worlds)
    ids = np.tile(np.int32(CUBES[:cubes]), (worlds, 1))
    return CubeScene(pose.astype(np.float32), ids, gripper.astype(np.float32))


def grasp_and_wander(scene: CubeScene, seconds: float, seed: int = 1) -> np.ndarray:
    """Close, lift, then random motion that keeps away from table and walls."""
    rng = np.random.default_rng(seed)
    worlds, steps = len(scene.gripper), round(seconds / 0.1)
    actions = np.zeros((worlds, 8 + steps, 5), np.float32)
    actions[..., 4] = CLOSE
    actions[:, 4:8, 2] = 0.8
    at = np.zeros((worlds, 3))
    for t in range(0, steps, 5):
        way = rng.uniform(-1, 1, (worlds, 4))
        way[:, :3] = np.where(np.abs(at + way[:, :3]) > 0.9, -way[:, :3], way[:, :3])
        at += way[:, :3]
        way[:, :3] *= 0.6
        actions[:, 8 + t : 13 + t, :4] = way[:, None]
    return actions


def asked(kind: str, scene: CubeScene, *names: str) -> np.ndarray:
    one = CUBE.question(kind, *names)
    return np.asarray(
        CUBE.margin(np.array(one.type_id), np.array(one.args), scene, scene)
    )


def held_throughout(env, scene: CubeScene, seconds: float) -> tuple[float, float]:
    """Share of worlds whose cube stays grasped; how far it slips, metres, median."""
    path = env.rollout_batch(
        env.state_from_scene(scene), grasp_and_wander(scene, seconds)
    )
    path = jax.tree.map(lambda x: np.asarray(x)[:, 8:], path)  # once it is lifted
    assert np.abs(np.diff(path.gripper[..., :3], axis=1)).mean() > 0.005  # it moves
    grasped = (asked("cube_grasped", path, "red cube") > 0).all(1)
    lower = path.block_pose[:, :, 0, 2] - path.gripper[:, :, 2]
    return grasped.mean(), np.median(np.abs(lower[:, -1] - lower[:, 0]))


def test_a_grasped_cube_stays_grasped_over_five_seconds_of_motion(env):
    share, slip = held_throughout(env, laid_out(24), 5.0)
    assert share == 1.0
    assert slip < 0.003


def test_a_cube_falls_when_the_gripper_stops_closing_and_opens(env):
    scene = laid_out(4)
    actions = grasp_and_wander(scene, 0.5)
    actions[:, 8:, :4] = 0.0
    actions[:, 8:, 4] = OPEN
    end = env.rollout_batch(env.state_from_scene(scene), actions)
    assert (asked("cube_lifted", end, "red cube")[:, 8] > 0).all()
    assert (asked("cube_lifted", end, "red cube")[:, -1] < 0).all()
    assert (asked("cube_grasped", end, "red cube")[:, -1] < 0).all()


def tower(worlds: int = 8) -> CubeScene:
    """Four cubes on each other, a few millimetres off, the gripper far away."""
    scene = laid_out(worlds, seed=2)
    rng = np.random.default_rng(3)
    pose = scene.block_pose.copy()
    pose[..., :2] = [0.42, 0.0] + rng.uniform(-0.006, 0.006, (worlds, 4, 2))
    pose[..., 2] = geometry.CUBE_HALF + 0.0403 * np.arange(4)
    gripper = scene.gripper.copy()
    gripper[:, :3] = [0.3, -0.3, 0.3]
    return scene.replace(block_pose=pose, gripper=gripper)


def test_stacked_cubes_stay(env):
    scene = tower()
    still = np.zeros((8, 50, 5), np.float32)
    path = env.rollout_batch(env.state_from_scene(scene), still)
    gone = np.linalg.norm(
        path.block_pose[:, -1, :, :3] - path.block_pose[:, 5, :, :3], axis=-1
    )
    assert gone.max() < 0.001
    assert (asked("cube_on_top", path, "blue cube", "red cube")[:, 5:] > 0).all()
    assert (asked("cube_on_top", path, "red cube", "blue cube")[:, 5:] < 0).all()


def test_a_rollout_equals_its_steps_bit_for_bit(env):
    rng = np.random.default_rng(4)
    states = env.reset_batch(jax.random.split(jax.random.key(5), 3))
    actions = rng.uniform(-1, 1, (3, 6, 5)).astype(np.float32)
    path = env.rollout_batch(states, actions)
    env.rollout_batch(env.reset_batch(jax.random.split(jax.random.key(6), 3)), actions)
    for t in range(6):
        states = env.step_batch(states, actions[:, t])
        at = jax.tree.map(lambda x, t=t: x[:, t + 1], path)
        jax.tree.map(np.testing.assert_array_equal, env.scene(states), at)


def test_an_action_moves_the_gripper_by_what_it_says(env):
    """Each axis alone, from rest in the air: at least 0.9 of the step in 0.1 s."""
    state = env.reset(jax.random.key(0))
    qpos = np.array(state.qpos)
    qpos[:6] = [0.42, 0.0, 0.2, 0.0, 0.02, 0.02]
    state = state.replace(qpos=qpos)
    for axis, scale in enumerate(geometry.ACTION_SCALE[:4]):
        action = np.zeros(5, np.float32)
        action[axis] = 0.8
        moved = (env.step(state, action).qpos - qpos)[:4]
        want = 0.8 * scale
        assert 0.9 * want < moved[axis] < 1.02 * want
        assert np.abs(np.delete(moved, axis)).max() < 1e-4
    action = np.array(
        [0, 0, 0, 0, -0.25], np.float32
    )  # opens by a quarter of its range
    fingers = env.step(state, action).qpos[4:6]
    np.testing.assert_allclose(fingers, 0.02 + 0.25 * geometry.MAX_GAP, atol=0.0015)


def test_the_gripper_stays_in_the_workspace(env):
    states = env.reset_batch(jax.random.split(jax.random.key(1), 8))
    signs = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, 8).T
    actions = np.zeros((8, 20, 5), np.float32)
    actions[..., :3] = signs[:, None]
    place = env.rollout_batch(states, actions).gripper[:, -1, :3]
    assert (place > np.array(geometry.WORKSPACE_LOW) - 0.005).all()
    assert (place < np.array(geometry.WORKSPACE_HIGH) + 0.005).all()


def test_cubes_start_apart_at_rest_on_the_table_with_their_mass(env):
    states = env.reset_batch(jax.random.split(jax.random.key(2), 64))
    pose = env.scene(states).block_pose
    apart = np.linalg.norm(pose[:, :, None, :2] - pose[:, None, :, :2], axis=-1)
    assert apart[:, ~np.eye(4, dtype=bool)].min() > 0.06
    later = env.rollout_batch(states, np.zeros((64, 3, 5), np.float32)).block_pose
    assert np.abs(later[:, -1, :, :3] - pose[..., :3]).max() < 0.0005
    model = cube_model()
    assert model.body("cube0").mass[0] == pytest.approx(0.04**3 * 1240)
    assert CONTACT.split('"')[1] == "0.01 1"  # as stated in the docs


def _tries_and_spots(seed):
    """Candidate places [4, 32, 2] of the cubes, and those that were taken [4, 2]."""
    key = jax.random.key(seed)
    low, high = jnp.asarray(geometry.CUBE_LOW), jnp.asarray(geometry.CUBE_HIGH)
    draw = lambda slot: jax.random.uniform(
        jax.random.fold_in(key, slot), (32, 2), minval=low, maxval=high
    )
    tries = np.stack([np.asarray(draw(slot)) for slot in range(4)])
    return tries, np.asarray(cube_env.scatter(key, 4))


def _clearance(tries, placed):
    return np.linalg.norm(tries[:, None] - placed, axis=-1).min(-1)


def test_cubes_take_the_first_clear_place(monkeypatch):
    monkeypatch.setattr(cube_env, "CUBE_GAP", 0.12)  # so that the first try often fails
    later = 0
    for seed in range(6):
        tries, spots = _tries_and_spots(seed)
        np.testing.assert_array_equal(spots[0], tries[0, 0])
        for slot in range(1, 4):
            clear = _clearance(tries[slot], spots[:slot]) > 0.12
            np.testing.assert_array_equal(spots[slot], tries[slot, clear.argmax()])
            later += not clear[0]
    assert later > 3


def test_without_a_clear_place_cubes_take_the_farthest(monkeypatch):
    monkeypatch.setattr(cube_env, "CUBE_GAP", 5.0)  # wider than the table
    tries, spots = _tries_and_spots(3)
    for slot in range(1, 4):
        clearance = _clearance(tries[slot], spots[:slot])
        np.testing.assert_array_equal(spots[slot], tries[slot, clearance.argmax()])
        assert clearance.argmax() != 0


def test_two_engines_agree():
    """In the air to rounding; a grasp and lift to what their contact points differ."""
    engine = worlds.load_env("cube", backend="mujoco", cubes=1)
    mjx = worlds.load_env("cube", backend="mjx", cubes=1)
    keys = jax.random.split(jax.random.key(0), 2)
    jax.tree.map(
        np.testing.assert_array_equal, engine.reset_batch(keys), mjx.reset_batch(keys)
    )
    scene = laid_out(2, cubes=1)
    gripper = scene.gripper.copy()
    gripper[0, 2] = 0.2
    scene = scene.replace(gripper=gripper)
    actions = np.zeros((2, 4, 5), np.float32)
    actions[0] = np.random.default_rng(0).uniform(-1, 1, (4, 5))
    actions[1, :, 4], actions[1, 3, 2] = CLOSE, 0.5
    a = engine.rollout_batch(engine.state_from_scene(scene), actions)
    b = mjx.rollout_batch(mjx.state_from_scene(scene), actions)
    b = jax.tree.map(np.asarray, b)
    np.testing.assert_allclose(a.gripper[0], b.gripper[0], atol=1e-5)
    np.testing.assert_allclose(a.block_pose[0], b.block_pose[0], atol=1e-4)
    np.testing.assert_allclose(a.gripper[1], b.gripper[1], atol=0.005)
    offset = a.block_pose[1, ..., :3] - b.block_pose[1, ..., :3]
    assert np.abs(offset).max() < 0.006  # while fingers turn the cube
    assert np.abs(offset[-1]).max() < 0.003
    for path in (a, b):
        assert asked("cube_grasped", path, "red cube")[1, -1] > 0


@pytest.mark.slow
def test_grasps_and_towers_hold_in_mjx():
    env = worlds.load_env("cube", backend="mjx")
    share, slip = held_throughout(env, laid_out(4), 5.0)
    assert share == 1.0 and slip < 0.005
    scene = tower(4)
    still = np.zeros((4, 30, 5), np.float32)
    path = env.rollout_batch(env.state_from_scene(scene), still)
    path = jax.tree.map(np.asarray, path)
    assert (asked("cube_on_top", path, "blue cube", "red cube")[:, 5:] > 0).all()
    gone = path.block_pose[:, -1, :, :3] - path.block_pose[:, 5, :, :3]
    assert np.abs(gone).max() < 0.002


def contacts(model, data) -> dict[tuple[str, str], float]:
    """Normal force in newtons of every pair of geoms that touch."""
    force, out = np.zeros(6), {}
    for i, contact in enumerate(data.contact):
        mujoco.mj_contactForce(model, data, i, force)
        pair = tuple(sorted(model.geom(g).name for g in contact.geom))
        out[pair] = out.get(pair, 0.0) + force[0]
    return out


def test_labels_agree_with_mujocos_contact_forces(env):
    """Grasped: both fingers press. Touching: one presses. On top: the upper presses."""
    model = cube_model()
    data = mujoco.MjData(model)
    scenes = [tower(4), grasped := laid_out(4)]
    actions = grasp_and_wander(grasped, 2.0)
    actions[:2, 20:, 4] = OPEN  # half of them drop it
    path = env.rollout_batch(env.state_from_scene(grasped), actions)
    flat = lambda scene: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), scene)
    fallen = env.rollout_batch(
        env.state_from_scene(scenes[0]), np.zeros((4, 9, 5), np.float32)
    )
    seen = {True: 0, False: 0}
    for scene in (flat(path), flat(fallen)):
        state = env.state_from_scene(scene)
        answers = {
            "cube_grasped": asked("cube_grasped", scene, "red cube"),
            "gripper_touching": asked("gripper_touching", scene, "red cube"),
            "cubes_touching": asked("cubes_touching", scene, "blue cube", "red cube"),
            "cube_on_top": asked("cube_on_top", scene, "blue cube", "red cube"),
        }
        for i, qpos in enumerate(state.qpos):
            data.qpos[:], data.qvel[:] = qpos, 0.0
            data.ctrl[:4] = qpos[:4]
            data.ctrl[4:] = qpos[4:6] - 0.01  # fingers close
            mujoco.mj_forward(model, data)
            forces = contacts(model, data)
            fingers = [forces.get(("cube0", name), 0.0) > 0.01 for name in FINGERS]
            cubes = forces.get(("cube0", "cube1"), 0.0) > 0.01
            above = qpos[6 + 7 + 2] - qpos[6 + 2] > 0.015
            truth = {
                "cube_grasped": all(fingers),
                "gripper_touching": any(fingers),
                "cubes_touching": cubes,
                "cube_on_top": cubes and above,
            }
            for kind, value in truth.items():
                said = answers[kind][i] > 0
                # Things within a millimetre touch although nothing presses yet.
                near = 0 < answers[kind][i] < 0.05 and not value
                assert said == value or near, (kind, i, forces)
                seen[value] += 1
    assert min(seen.values()) > 50


def test_success_of_tasks_follows_contacts(env):
    scene = tower(1)
    still = np.zeros((1, 10, 5), np.float32)
    end = env.rollout_batch(env.state_from_scene(scene), still)
    end = jax.tree.map(lambda x: x[:, -1], end)
    stack = make_task("stack", pair=("blue cube", "red cube"))
    assert stack.success(end).all()
    assert not make_task("stack", pair=("red cube", "blue cube")).success(end).any()
    assert not make_task("stack", pair=("yellow cube", "red cube")).success(end).any()
    # A finger that touches the upper cube takes it back.
    pose, gripper = end.block_pose[0, 1], np.array(end.gripper)
    side = geometry.rotation_matrix(pose[3:])[:, 1]
    gripper[0, :3] = pose[:3] - side * (geometry.CUBE_HALF - 0.0003)
    gripper[0, 3] = np.arctan2(-side[0], side[1])
    gripper[0, 4:] = 0.0
    touched = end.replace(gripper=gripper.astype(np.float32))
    assert asked("gripper_touching", touched, "blue cube")[0] > 0
    assert not stack.success(touched).any()
    path = env.rollout_batch(
        env.state_from_scene(laid_out(2)), grasp_and_wander(laid_out(2), 0.5)
    )
    first, last = (jax.tree.map(lambda x, t=t: x[:, t], path) for t in (0, 8))
    for name in ("reach", "lift"):
        task = make_task(name, target="red cube")
        assert task.success(last).all() and not task.success(first).any()
