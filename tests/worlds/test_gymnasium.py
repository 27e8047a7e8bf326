"""The Gymnasium wrappers: the checker passes, and single and vector agree."""

import copy
import json
import subprocess
import sys
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from swm_jax import envs, worlds
from swm_jax.worlds import gymnasium_envs as gym_wrappers
from swm_jax.worlds.board.tasks import make_task

IDS = [
    gym_wrappers.gymnasium_id(world, task)
    for world in ("board", "cube")
    for task in worlds.load(world).tasks.names
]
SMALL = {"image_size": (24, 32), "backend": "mujoco"}


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_checker_has_nothing_to_say(name):
    env = gymnasium.make(name, render_mode="rgb_array", **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_checker_passes_without_pictures():
    env = gym_wrappers.WorldGymEnv("board", "reach", image_size=None, backend="mujoco")
    assert "image" not in env.observation_space.spaces
    check_env(env, skip_render_check=True)


def test_seeded_reset_is_the_benchmark_episode_of_that_seed():
    env = gym_wrappers.WorldGymEnv("board", "separate", **SMALL)
    observation, info = env.reset(seed=6003)
    task = make_task("separate", seed=6003)
    board = worlds.load_env(backend="mujoco")
    scene = board.scene(task.reset(board, jax.random.key(6003)))
    np.testing.assert_array_equal(observation["peg"], scene.peg)
    np.testing.assert_array_equal(
        observation["block_pose"][:, :2], scene.block_pose[:, :2]
    )
    named = [envs.BLOCK_NAMES[i] for i in observation["goal_blocks"]]
    assert tuple(named) == task.names
    assert info["task"] == task.task


def test_vector_env_plays_the_same_episodes_as_single_envs():
    vector = gymnasium.make_vec(
        "swm_jax/BoardBlockToBlock-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        **SMALL,
    )
    together, _ = vector.reset(seed=[5, 6, 7])
    single = [
        gym_wrappers.WorldGymEnv(task="block_to_block", **SMALL) for _ in range(3)
    ]
    alone = [env.reset(seed=5 + i)[0] for i, env in enumerate(single)]
    rng = np.random.default_rng(0)
    for _ in range(4):
        for name in together:
            np.testing.assert_array_equal(
                together[name], np.stack([each[name] for each in alone]), name
            )
        assert together in vector.observation_space
        actions = rng.uniform(-0.03, 0.03, (3, 2)).astype(np.float32)
        together, reward, *_ = vector.step(actions)
        outcomes = [env.step(action) for env, action in zip(single, actions)]
        alone = [outcome[0] for outcome in outcomes]
        assert reward.tolist() == [outcome[1] for outcome in outcomes]


def test_winning_gives_one_reward_then_a_new_episode():
    vector = gym_wrappers.WorldVectorEnv(
        2, "board", "reach", image_size=None, backend="mujoco"
    )
    observation, _ = vector.reset(seed=1)
    won = np.zeros(2)
    ended = np.zeros(2, bool)
    for _ in range(40):
        slot = np.argmax(
            observation["block_id"] == observation["goal_blocks"][:, :1], axis=1
        )
        way = observation["block_pose"][[0, 1], slot, :2] - observation["peg"]
        over = ended
        observation, reward, ended, truncated, info = vector.step(
            np.clip(way, -0.05, 0.05)
        )
        assert (reward == info["success"]).all() and (ended == info["success"]).all()
        assert not (ended & over).any() and not truncated.any()
        won += reward
    assert (won >= 2).all()


def test_episode_is_truncated_at_its_length():
    env = gym_wrappers.WorldGymEnv(
        "board", "reach", image_size=None, backend="mujoco", episode_length=3
    )
    env.reset(seed=0)
    assert [env.step(np.zeros(2))[3] for _ in range(3)] == [False, False, True]


def test_gymnasium_finds_the_env_by_its_module():
    env = gymnasium.make(
        "swm_jax.worlds.gymnasium_envs:swm_jax/BoardReach-v0", image_size=None
    )
    assert env.reset(seed=0)[0] in env.observation_space


def test_nan_action_and_short_seed_list_are_refused():
    env = gym_wrappers.WorldGymEnv("board", "reach", image_size=None, backend="mujoco")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action\[1\] is nan"):
        env.step(np.array([0.0, np.nan], np.float32))
    vector = gym_wrappers.WorldVectorEnv(2, "board", "reach", image_size=None)
    with pytest.raises(ValueError, match="seed has 3 entries, expected 2"):
        vector.reset(seed=[1, 2, 3])


class Short(gym_wrappers.WorldGymEnv):
    """Episodes of three steps, so that many are played in few."""

    def __init__(self):
        super().__init__("board", "reach", episode_length=3, **POSES)


POSES = {"image_size": None, "backend": "mujoco"}
SHORT = {"world": "board", "task": "reach", "episode_length": 3, **POSES}


@pytest.mark.parametrize("seed", [4, [7, 8, 9], [7, None, 2**33 + 1]])
def test_later_episodes_are_those_of_gymnasiums_own_vector_env(seed):
    """Gymnasium's `SyncVectorEnv` of single envs says what every episode is."""
    theirs = SyncVectorEnv([Short] * 3)
    ours = gym_wrappers.WorldVectorEnv(3, **SHORT)
    # A seed of None goes on with the env's own generator: give both the same one.
    for each in (theirs, ours):
        each.reset(seed=1)
    expected, found = theirs.reset(seed=seed)[0], ours.reset(seed=seed)[0]
    starts = set()
    for _ in range(13):
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], name)
        starts.add(found["block_pose"].tobytes())
        expected, found = (
            each.step(np.zeros((3, 2), np.float32))[0] for each in (theirs, ours)
        )
    assert len(starts) > 3  # several episodes were played
    assert ours.np_random_seed == theirs.np_random_seed
    drawn = lambda env: [generator.integers(2**31) for generator in env.np_random]
    assert drawn(ours) == drawn(theirs)


def test_seeds_that_are_equal_modulo_2_to_the_32_are_different_episodes():
    env = gym_wrappers.WorldGymEnv("board", "reach", **POSES)
    seeds = (5, 5 + 2**32, 5 + 2**33)
    poses = {env.reset(seed=seed)[0]["block_pose"].tobytes() for seed in seeds}
    assert len(poses) == 3
    vector = gym_wrappers.WorldVectorEnv(3, "board", "reach", **POSES)
    together = vector.reset(seed=np.array(seeds))[0]["block_pose"]
    assert {pose.tobytes() for pose in together} == poses


def test_a_seed_may_be_one_of_numpy():
    vector = gym_wrappers.WorldVectorEnv(2, "board", "reach", **POSES)
    a, b = (vector.reset(seed=seed)[0]["peg"] for seed in (np.int64(3), [3, 4]))
    np.testing.assert_array_equal(a, b)


def test_a_deep_copy_plays_on_by_itself():
    for env in (
        gymnasium.make("swm_jax/BoardReach-v0", **POSES),
        gym_wrappers.WorldVectorEnv(2, "board", "reach", **POSES),
    ):
        env.reset(seed=0)
        action = np.full(env.action_space.shape, 0.02, np.float32)
        env.step(action)
        branch = copy.deepcopy(env)
        ahead = branch.step(action)[0]
        np.testing.assert_array_equal(env.step(action)[0]["peg"], ahead["peg"])
        a, b = (each.reset()[0]["block_pose"] for each in (env, branch))
        np.testing.assert_array_equal(a, b)  # the generator was copied too


def test_one_number_is_a_square_picture():
    env = gym_wrappers.WorldGymEnv("board", "reach", image_size=24, backend="mujoco")
    assert env.reset(seed=0)[0]["image"].shape == (24, 24, 3)
    for wrong in (0, (24,), (24, -1), "24", 24.0):
        with pytest.raises(ValueError, match=r"image_size is .*, expected a number"):
            gym_wrappers.WorldGymEnv("board", "reach", image_size=wrong)


@pytest.mark.parametrize("method", ["step", "render"])
def test_use_before_reset_is_gymnasiums_own_error(method):
    for env in (
        gym_wrappers.WorldGymEnv("board", render_mode="rgb_array", **POSES),
        gym_wrappers.WorldVectorEnv(2, "board", render_mode="rgb_array", **POSES),
    ):
        action = [np.zeros(env.action_space.shape)] if method == "step" else []
        with pytest.raises(ResetNeeded, match=rf"Cannot call env.{method}\(\) before"):
            getattr(env, method)(*action)


ASYNC = """
import sys
import gymnasium
from swm_jax.worlds import gymnasium_envs
if __name__ == "__main__":
    kwargs = {"image_size": None, "backend": "mujoco"}
    name = "swm_jax.worlds.gymnasium_envs:swm_jax/BoardReach-v0"
    gymnasium.make(name, **kwargs).reset(seed=0)  # JAX runs from here on
    envs = gymnasium.make_vec(
        name, num_envs=2, vectorization_mode="async",
        vector_kwargs={"context": sys.argv[1]}, **kwargs
    )
    print(envs.reset(seed=3)[0]["peg"].tolist())
    envs.close()
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_processes_are_spawned_or_say_so_and_never_hang(context, tmp_path):
    script = tmp_path / "vector.py"
    script.write_text(ASYNC)
    done = subprocess.run(
        [sys.executable, script, context], capture_output=True, text=True, timeout=240
    )
    if context == "spawn":
        vector = gym_wrappers.WorldVectorEnv(2, "board", "reach", **POSES)
        assert json.loads(done.stdout) == vector.reset(seed=3)[0]["peg"].tolist()
        return
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: this process was forked"), done.stderr
    assert "{'context': 'spawn'}" in last and "vector_entry_point" in last
