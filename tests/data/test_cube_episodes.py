"""Episodes of the cube arm: oracles that stack, data that training can read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.generate.play import play_episodes
from data_pipelines.generate.shards import generate
from data_pipelines.schema.episode import DataError
from data_pipelines.schema.read import load_episodes
from experiments.generate_cube import get_config
from swm_jax import worlds
from swm_jax.questions import expand
from swm_jax.worlds.cube.oracle import closed_loop_action, quarter_turn
from swm_jax.worlds.cube.scene import CubeScene
from swm_jax.worlds.cube.tasks import make_task

WORLD = worlds.load("cube")
CUBE = worlds.language("cube")


@pytest.fixture(scope="module")
def env():
    return worlds.load_env("cube", backend="mujoco")


def test_the_closed_loop_oracle_stacks(env):
    tasks = [make_task("stack", seed=seed) for seed in range(12)]
    keys = jnp.stack([jax.random.key(seed) for seed in range(12)])
    states = env.reset_batch(keys)
    slots = np.array([task.slots for task in tasks])
    act = jax.jit(jax.vmap(closed_loop_action))
    done = np.zeros(12, bool)
    for _ in range(60):
        scene = env.scene(states)
        below = scene.block_pose[np.arange(12), slots[:, 1], :3]
        goal = below + np.float32([0, 0, 0.04])
        states = env.step_batch(states, act(scene, slots[:, 0], goal))
        for i, task in enumerate(tasks):
            one = jax.tree.map(lambda x, i=i: x[i], env.scene(states))
            done[i] |= bool(task.success(one))
    assert done.mean() >= 0.9


def test_the_hand_turns_to_the_nearest_side_of_a_cube():
    half = np.pi / 2
    for angle, turn in ((0, 0), (0.3, 0.3), (1.4, 1.4 - half), (-3, 2 * half - 3)):
        cube = jnp.array([0, 0, 0, np.cos(angle / 2), 0, 0, np.sin(angle / 2)])
        assert quarter_turn(cube, jnp.zeros(())) == pytest.approx(turn, abs=1e-5)


def test_play_and_noisy_episodes_hold_every_answer(env):
    config = get_config()
    config.min_steps = config.max_steps = 120
    config.mixture = {"play": 0.5, "noisy": 0.5}
    played = play_episodes(env, WORLD.policies, 0, range(12), config)
    assert played.action.shape == (12, 120, 5)
    assert np.abs(played.action).max() <= 1
    table = CUBE.table(env.block_ids)
    at = lambda t: jax.tree.map(lambda x: x[:, t], played.scene)
    starts = np.arange(0, 104, 4)
    now, later = at(starts), at(starts + 16)
    yes = CUBE.answer(table.type_id, table.args, expand(now), expand(later))
    for kind in np.unique(table.type_id):
        share = yes[..., table.type_id == kind].mean()
        assert 0.0005 < share < 0.9, CUBE.kind(int(kind)).name


def test_a_generated_data_set_is_read_back(tmp_path):
    config = get_config("debug")
    counts = generate(config, tmp_path / "cube")
    assert counts.episodes == 4
    arrays = load_episodes(tmp_path / "cube", "train")
    assert len(arrays) == 3
    scene = arrays.scene(np.array([0, 1]), np.array([0, 3]))
    assert isinstance(scene, CubeScene)
    assert scene.block_pose.shape == (2, 4, 7)
    again = play_episodes(
        worlds.load_env("cube"), WORLD.policies, config.seed, range(2), config
    )
    np.testing.assert_array_equal(scene.gripper[0], again.scene.gripper[0, 0])
    np.testing.assert_array_equal(scene.block_pose[1], again.scene.block_pose[1, 3])
    config.mixture = {"oracle": 1.0}
    with pytest.raises(DataError, match=r"mixture .* weights of play, noisy, smooth"):
        generate(config, tmp_path / "other")
