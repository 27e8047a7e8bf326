"""A config says with which planner, and on what, its model is examined."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import board_3b, board_tiny, cube_3b
from swm_jax.eval.config import EvalConfig, UserError, of_experiment, preset
from swm_jax.eval.episodes.cells import make_planner
from swm_jax.planning import get_planner
from swm_jax.training import Experiment
from swm_jax.training.experiment import Evaluation


def config_of(file, arg="", **flags):
    return of_experiment("demo", Experiment.parse(file.get_config(arg)), **flags)


def test_an_experiment_that_sets_nothing_is_examined_like_none():
    """The same settings: a folder of results goes on with or without `--config`."""
    assert config_of(board_tiny) == preset("demo")
    assert config_of(board_tiny).settings() == preset("demo").settings()


def test_the_planner_is_the_experiments():
    config = config_of(board_3b)
    assert config.methods == ("mppi_published",)
    assert make_planner(config, "mppi_published") == get_planner("mppi_published")
    config = config_of(cube_3b)
    assert config.world == "cube" and config.tasks == ("reach", "lift", "stack")
    assert make_planner(config, "mppi_published").config.action_size == 5


def test_settings_of_planner_and_evaluation_count_and_flags_before_them():
    config = board_tiny.get_config()
    config.planner.name = "cem"
    config.planner.update({"elites": 3, "candidates": 40, "momentum": 0.5})
    config.evaluation.update({"seeds": (1, 2), "goal": "published", "video": False})
    experiment = Experiment.parse(config)
    plain = of_experiment("demo", experiment)
    assert (plain.seeds, plain.goal, plain.video) == ((1, 2), "published", False)
    found = make_planner(plain, "cem").config
    assert (found.elites, found.candidates, found.momentum) == (3, 40, 0.5)
    assert plain.settings() != preset("demo", goal="published").settings()
    flags = {"seeds": (7,), "candidates": 8, "methods": ("cem", "mppi"), "goal": None}
    other = of_experiment("demo", experiment, **flags)
    assert (other.seeds, other.goal) == ((7,), "published")
    found = make_planner(other, "cem").config
    assert (found.elites, found.candidates, found.momentum) == (3, 8, 0.5)
    assert make_planner(other, "mppi").config.momentum == 0.1  # of CEM alone


def test_names_that_the_world_does_not_have_are_refused():
    config = board_tiny.get_config()
    config.evaluation.tasks = ("lift",)
    with pytest.raises(UserError, match="unknown task 'lift'"):
        of_experiment("demo", Experiment.parse(config))


def test_every_field_of_an_evaluation_is_one_of_the_configurations():
    mine, all_ = (
        {field.name for field in dataclasses.fields(cls)}
        for cls in (Evaluation, EvalConfig)
    )
    assert mine < all_


def test_the_command_names_a_wrong_field_in_one_line():
    command = [sys.executable, "-m", "swm_jax.eval", "--config"]
    command += ["experiments/board_tiny.py", "--config.planner.horizon=9"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: config: planner horizon 9 must be a multiple")
