"""Training on both domains and on OGBench's layout: a little of it, on a CPU."""

import jax
import numpy as np
import pytest
from stored_episodes import board_episode, cube_episode, write

from data_pipelines.generate.shards import generate
from experiments import board_and_cube, generate_board, generate_cube, ogbench_cube
from swm_jax import worlds
from swm_jax.checkpoints import CheckpointError, load_model
from swm_jax.training import train
from swm_jax.training.monitoring.metrics import read_metrics


def made(source, directory, **changes):
    config = source.get_config("debug")
    config.backend = "mujoco"
    config.update({"episodes": 24, "val_share": 0.2, "episodes_per_shard": 12})
    config.update({"height": 48, "width": 48, **changes})
    generate(config, directory)
    return str(directory)


def losses(workdir):
    rows = [row for row in read_metrics(workdir) if "loss" in row]
    return np.array([row["loss"] for row in rows]), rows


@pytest.mark.slow
def test_one_model_learns_from_board_and_cube_and_reports_on_both(tmp_path):
    board = made(generate_board, tmp_path / "board")
    cube = made(generate_cube, tmp_path / "cube")
    config = board_and_cube.get_config("debug")
    config.data.dir = ({"dir": board, "weight": 1.0}, {"dir": cube, "weight": 1.0})
    result = train(config, tmp_path / "run")
    loss, rows = losses(tmp_path / "run")
    assert loss[-3:].mean() < loss[:2].mean() - 0.02
    asked = {name for row in rows for name in row if name.startswith("accuracy/")}
    for domain in ("board", "cube"):
        of_domain = {f"accuracy/{name}" for name in worlds.language(domain).by_name}
        assert len(asked & of_domain) > len(of_domain) / 2
    assert np.isfinite(result["validation/loss"])

    loaded = load_model(tmp_path / "run")
    entries = loaded.metadata["actions"]
    assert {k: v["size"] for k, v in entries.items()} == {"board": 2, "cube": 5}
    image = np.zeros((48, 48, 3), np.uint8)
    for domain, size, limit in (("board", 2, 0.03), ("cube", 5, 1.0)):
        world = loaded.world_model_for(domain)
        told = [
            world.answer(image, np.full((4, size), sign * limit, np.float32), words)
            for sign in (-1, 1)
            for words in [
                {"board": "Did the peg move?"}.get(domain) or "Is the red cube grasped?"
            ]
        ]
        assert told[0].alternatives != told[1].alternatives
        with pytest.raises(ValueError, match=f"action_size={size}"):
            world.answer(image, np.zeros((4, 3), np.float32), "Did the peg move?")
    with pytest.raises(CheckpointError, match="trained on actions of board, cube"):
        loaded.world_model_for("other")


@pytest.mark.slow
def test_the_ogbench_config_learns_from_cube_episodes(tmp_path):
    """The same folder layout that `generate_ogbench` and `convert` write."""
    config = ogbench_cube.get_config("debug")
    config.data.dir = made(generate_cube, tmp_path / "cube", cubes=2)
    train(config, tmp_path / "run")
    loss, rows = losses(tmp_path / "run")
    assert loss[-3:].mean() < loss[:2].mean() - 0.02
    asked = {name for row in rows for name in row if name.startswith("accuracy/")}
    assert {"accuracy/gripper_touching", "accuracy/gripper_closer"} <= asked


@pytest.mark.slow
def test_a_resumed_mixture_sees_what_the_uninterrupted_one_saw(tmp_path):
    """Two steps and two more are four: parameters equal bit for bit."""
    board = write(
        tmp_path / "board",
        [board_episode(n, size=48) for n in range(10)],
        [board_episode(n, size=48) for n in range(10, 13)],
    )
    cube = write(
        tmp_path / "cube",
        [cube_episode(n, size=48) for n in range(10)],
        [cube_episode(n, size=48) for n in range(10, 13)],
    )
    config = board_and_cube.get_config("debug")
    config.data.dir = (str(board), str(cube))
    config.data.images, config.validation_batches = 4, 1
    config.data.update({"questions": 4, "queries": 8})
    config.steps, config.checkpoint_every = 4, 2
    config.optimizer.schedule = "constant"
    train(config, tmp_path / "whole")
    config.steps = 2
    train(config, tmp_path / "parts")
    config.steps = 4
    train(config, tmp_path / "parts")
    left, right = (load_model(tmp_path / n).params for n in ("whole", "parts"))
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), left, right)
    assert all(jax.tree.leaves(same))
