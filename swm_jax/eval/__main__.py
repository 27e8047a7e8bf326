"""Evaluation of a semantic world model with baselines: `python -m swm_jax.eval`.

    python -m swm_jax.eval
    python -m swm_jax.eval --config experiments/board_tiny.py --checkpoint runs/swm \\
        --config.planner.temperature=0.5 --seeds 6000:6050

Without flags it evaluates the shipped checkpoint on a small sweep. With an experiment's
config it plans with `config.planner` in `config.world` and takes the sweep from
`config.evaluation`; other flags override both. Errors of the user are one line and exit
status 2.
"""

import functools
import os
import pathlib

from absl import flags, logging

from swm_jax import worlds
from swm_jax.cli import (
    GOES_ON,
    define_config,
    define_path,
    error_line,
    no_arguments,
    run_command,
)
from swm_jax.eval.config import (
    METHODS,
    PRESETS,
    WORLD_MODELS,
    UserError,
    of_experiment,
    parse_seeds,
    preset,
)
from swm_jax.files import local_path

_CONFIG = define_config(None, "Experiment whose planner and evaluation count.")
_PRESET = flags.DEFINE_enum(
    "preset", "demo", sorted(PRESETS), "What the rest defaults to."
)
_CHECKPOINT = define_path(
    "checkpoint", None, "Run, model, Hugging Face folder or npz; default: shipped."
)
_WORLD = flags.DEFINE_enum(
    "world", None, worlds.names(), f"Whose tasks; default: {worlds.DEFAULT}."
)
_TASKS = flags.DEFINE_list("tasks", None, "Of the world; default: all of them.")
_METHODS = flags.DEFINE_list("methods", None, f"Of {', '.join(METHODS)}.")
_WORLD_MODELS = flags.DEFINE_list(
    "world_models", None, f"Of {', '.join(WORLD_MODELS)}."
)
_SEEDS = flags.DEFINE_string("seeds", None, "Such as 6000:6050 (end excluded) or 1,2.")
_GOAL = flags.DEFINE_string("goal", None, "Questions of the goals: published, shaped.")
_OUTPUT = define_path(
    "output", None, "Folder; default: results/<name of the config, or preset>."
)
_DATA_DIR = define_path(
    "data_dir", None, "Data folder for held-out questions; default: made on the fly."
)
_PARALLEL = flags.DEFINE_integer("episodes_parallel", None, "Episodes side by side.")
_ON_DEVICE = flags.DEFINE_boolean(
    "on_device", None, "Whole episodes in one program; physics by MJX."
)
_CANDIDATES = flags.DEFINE_integer("candidates", None, "Per iteration of a planner.")
_ITERATIONS = flags.DEFINE_integer("iterations", None, "Of a planner, per replan.")
_EXECUTE = flags.DEFINE_integer("execute", None, "Actions carried out per replan.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", None, "Cap on the steps of an episode.")
_QA_EPISODES = flags.DEFINE_integer("qa_episodes", None, "Held-out episodes.")
_NUMBERS = flags.DEFINE_list(
    "numbers", None, "Numeric question types to examine, such as peg_distance."
)
_SCENES = flags.DEFINE_integer(
    "sensitivity_scenes", None, "Scenes per task whose candidates are ranked."
)
_RESTART = flags.DEFINE_boolean("restart", False, "Begin anew in --output.")
_VIDEO = flags.DEFINE_boolean("video", None, "Write a film per task.")


def config_from_flags():
    """Configuration from the command line.

    Raises:
      UserError: an invalid value.
    """
    listed = lambda flag: tuple(x.strip() for x in flag if x.strip()) if flag else flag
    make = preset
    if _CONFIG.value is not None:
        make = functools.partial(of_experiment, experiment=_experiment())
    return make(
        _PRESET.value,
        world=_WORLD.value,
        checkpoint=_absolute(_CHECKPOINT.value),
        tasks=listed(_TASKS.value),
        methods=listed(_METHODS.value),
        world_models=listed(_WORLD_MODELS.value),
        seeds=None if _SEEDS.value is None else parse_seeds(_SEEDS.value),
        goal=_GOAL.value,
        data_dir=_absolute(_DATA_DIR.value),
        episodes_parallel=_PARALLEL.value,
        on_device=_ON_DEVICE.value,
        candidates=_CANDIDATES.value,
        iterations=_ITERATIONS.value,
        execute=_EXECUTE.value,
        max_steps=_MAX_STEPS.value,
        qa_episodes=_QA_EPISODES.value,
        numbers=listed(_NUMBERS.value),
        sensitivity_scenes=_SCENES.value,
        video=_VIDEO.value,
    )


def _absolute(path: str | None) -> str | None:
    """A path that holds in any folder; an object store's is one already."""
    return path if not path or "://" in path else os.path.abspath(path)


def _local(path: str) -> pathlib.Path:
    try:
        return local_path(path)
    except ValueError as error:
        raise UserError(f"--output: {error}") from error


def _experiment():
    from swm_jax.training import Experiment  # late: takes seconds to import

    try:
        return Experiment.parse(_CONFIG.value)
    except ValueError as error:
        raise UserError(str(error)) from error


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # silences messages of imported packages
    no_arguments(argv)
    with error_line(UserError, OSError, status=2, where=_OUTPUT.value):
        config = config_from_flags()
        name = config.preset if _CONFIG.value is None else _CONFIG.value.name
        folder = _local(_OUTPUT.value or f"results/{name}")
        from swm_jax.eval.sweep import evaluate  # late: mistakes above cost no start-up

        evaluate(config, folder, _RESTART.value)


if __name__ == "__main__":
    run_command(main, status=2, stopped=GOES_ON)
