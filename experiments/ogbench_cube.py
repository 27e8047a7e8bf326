"""Model of OGBench's visual-cube env, variant `small`, trained on its data.

ogbench_cube.py          variant `small` on episodes of visual-cube-double
ogbench_cube.py:debug    tiny, a few steps, for tests and to try it on a CPU

    MUJOCO_GL=egl python -m data_pipelines.generate_ogbench \\
        --config experiments/generate_ogbench.py --output data/ogbench
    python -m swm_jax.train --config experiments/ogbench_cube.py --workdir runs/ogbench

Published files with `qpos` can be used too:

    python -m data_pipelines.convert visual-cube-double-play-v0.npz data/ogbench \\
        --size=keep
"""

import ml_collections

from data_pipelines.batches.config import Data
from experiments import board_and_cube
from swm_jax.choices import known
from swm_jax.training import Experiment, Model
from swm_jax.training.experiment import ModelOverrides
from swm_jax.training.optimizer import Optimizer

ARGS = ("default", "debug")


def get_config(arg: str = "default") -> ml_collections.ConfigDict:
    """Config of a variant; raises a ValueError for unknown names."""
    arg = known("variant of ogbench_cube.py", arg or ARGS[0], ARGS)
    config = Experiment(
        name="ogbench_cube",
        world="cube",
        model=Model(
            "small",
            tokenizer="board_cube",
            overrides=ModelOverrides(
                action_size=5,
                action_scale=1.0,  # actions are within -1..1 already
            ),
        ),
        dense_weight=0.0,  # batches of the cube world have no targets for read-outs
        data=Data(dir="data/ogbench", frames="compressed", images=32),
        optimizer=Optimizer(learning_rate=5e-4),
        steps=40_000,
    ).to_config()
    if arg == "debug":
        board_and_cube.shrink(config)
    return config
