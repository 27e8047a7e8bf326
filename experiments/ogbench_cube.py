"""A model of OGBench's own visual-cube env, from its data.

ogbench_cube.py          variant `small` on episodes of visual-cube-double
ogbench_cube.py:debug    tiny, a few steps, for tests and to try it on a CPU

    MUJOCO_GL=egl python -m data_pipelines.generate_ogbench \\
        --config experiments/generate_ogbench.py --output data/ogbench
    python -m swm_jax.train --config experiments/ogbench_cube.py --workdir runs/ogbench

Published files serve as well, those with `qpos`:

    python -m data_pipelines.convert visual-cube-double-play-v0.npz data/ogbench \\
        --size=keep
"""

import difflib

import ml_collections

from experiments import board_tiny

ARGS = ("default", "debug")


def get_config(arg: str = "default") -> ml_collections.ConfigDict:
    """The config of a size; unknown names are refused."""
    arg = arg or "default"
    if arg not in ARGS:
        close = difflib.get_close_matches(arg, ARGS, 1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(
            f"ogbench_cube.py has no variant '{arg}'{hint}; known: {', '.join(ARGS)}"
        )
    config = board_tiny.get_config("debug" if arg == "debug" else "swm")
    config.name = "ogbench_cube"
    config.model.variant = "small"
    config.model.tokenizer = "board_cube"
    config.model.overrides.action_size = 5
    config.model.overrides.action_scale = 1.0  # actions are within -1..1 already
    config.dense_weight = 0.0  # where things lie is not read out of the cube arm
    data = config.data.to_dict()
    data["dir"], data["rendered_every"] = "data/ogbench", 0
    data["frames"] = "compressed"
    config.data = ml_collections.ConfigDict(data)
    config.steps = 40_000
    config.data.images = 32
    config.optimizer.learning_rate = 5e-4
    if arg == "debug":
        config.model.variant = "tiny"
        config.steps, config.log_every, config.validate_every = 100, 10, 50
        config.checkpoint_every, config.validation_batches = 100, 2
        config.data.images = 8
        config.optimizer.learning_rate = 2e-3
    return config
