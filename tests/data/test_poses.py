"""Episodes without frames: those that generation makes, kept in one file."""

import json

import numpy as np
import pytest

from data_pipelines.generate.play import play_episodes
from data_pipelines.generate.pose_cache import simulated_episodes
from data_pipelines.schema.episode import DataError
from experiments import board_tiny, generate_board
from swm_jax import worlds
from swm_jax.training import train


@pytest.fixture(scope="module")
def config():
    config = generate_board.get_config("debug")
    config.backend = "mujoco"
    return config


@pytest.fixture(scope="module")
def path(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("poses") / "poses.npz"
    simulated_episodes(config, path, "train")
    return path


def test_they_are_the_episodes_that_generation_makes(path, config):
    train, val = (simulated_episodes(config, path, s) for s in ("train", "val"))
    assert (len(train), len(val)) == (3, 1)
    env = worlds.load_env("board", backend="mujoco", block_set=config.block_set)
    policies = worlds.load("board").policies
    played = play_episodes(env, policies, config.seed, range(2, 4), config)
    for episodes, row, at in ((train, 2, 0), (val, 0, 1)):
        assert episodes.length[row] == played.length[at]
        np.testing.assert_array_equal(episodes.action[row], played.action[at])
        np.testing.assert_array_equal(episodes.peg[row], played.scene.peg[at])
        np.testing.assert_array_equal(
            episodes.block_pose[row], played.scene.block_pose[at]
        )


def test_the_file_is_read_not_made_again(path, config, monkeypatch):
    monkeypatch.setattr("data_pipelines.generate.pose_cache.play_episodes", None)
    assert len(simulated_episodes(config, path, "train")) == 3
    other = config.copy_and_resolve_references()
    other.seed = 5
    with pytest.raises(DataError, match="another config: seed is 0 there, 5 here"):
        simulated_episodes(other, path, "train")


@pytest.mark.parametrize("damage", ["cut off", "other"])
def test_a_damaged_file_is_named(path, config, damage, tmp_path):
    broken = tmp_path / "poses.npz"
    data = path.read_bytes()
    broken.write_bytes(data[: len(data) // 2] if damage == "cut off" else b"no zip")
    with pytest.raises(DataError, match=r"poses\.npz is damaged or no file of sim"):
        simulated_episodes(config, broken, "train")


def test_a_full_disk_leaves_nothing_half_written(config, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez", full)
    monkeypatch.setattr(
        "data_pipelines.generate.pose_cache._simulate",
        lambda config: {"length": np.zeros(1)},
    )
    with pytest.raises(DataError, match=r"cannot write .*No space left"):
        simulated_episodes(config, tmp_path / "poses.npz", "train")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_draws_from_the_file(path, tmp_path):
    config = board_tiny.get_config("device_debug")
    config.data.simulated.generation.backend = "mujoco"
    config.data.dir = str(path)
    config.data.rendered_every = config.validation_batches = 0
    config.data.images, config.data.questions, config.data.queries = 2, 3, 6
    config.dense_weight, config.steps = 0.0, 2
    train(config, tmp_path)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]
    assert all(0 < json.loads(row)["loss"] < 20 for row in rows)


def test_generate_s_errors_come_through(config, tmp_path):
    bad = config.copy_and_resolve_references()
    bad.near_share = 2.0
    with pytest.raises(DataError, match=r"config\.near_share is 2\.0"):
        simulated_episodes(bad, tmp_path / "poses.npz", "train")
