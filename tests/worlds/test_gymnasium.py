"""The Gymnasium wrappers: the checker passes, and single and vector agree."""

import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

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
