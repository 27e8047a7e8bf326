"""One model for the board and the cube world, variant `small`.

board_and_cube.py          for one accelerator
board_and_cube.py:debug    tiny, a few steps, for tests and to try it on a CPU

    python -m data_pipelines.generate --config experiments/generate_board.py \\
        --output data/board
    python -m data_pipelines.generate --config experiments/generate_cube.py \\
        --output data/cube
    python -m swm_jax.train --config experiments/board_and_cube.py --workdir runs/both

The model distinguishes the robots by image and words. An action has five numbers; the
board's two come first, followed by zeros. Actions are scaled by the quantiles of each
domain, since one has metres and the other shares of the arm's range; the scales are
stored in the checkpoint and applied in the model, so planners use unscaled actions.
"""

import ml_collections

from data_pipelines.batches.config import Data
from experiments import board_tiny
from swm_jax.choices import known
from swm_jax.training import Experiment, Model
from swm_jax.training.experiment import ModelOverrides
from swm_jax.training.optimizer import Optimizer

ARGS = ("default", "debug")


def get_config(arg: str = "default") -> ml_collections.ConfigDict:
    """Config of a variant; raises a ValueError for unknown names."""
    arg = known("variant of board_and_cube.py", arg or ARGS[0], ARGS)
    config = Experiment(
        name="board_and_cube",
        model=Model(
            "small",
            tokenizer="board_cube",
            overrides=ModelOverrides(
                action_size=5,
                action_scale=1.0,  # actions are scaled by quantiles already
            ),
        ),
        data=Data(
            dir=(
                {"dir": "data/board", "weight": 1.0},
                {"dir": "data/cube", "weight": 1.0},
            ),
            actions="quantile",
            frames="compressed",  # decoded when drawn: a sixteenth of the memory
            images=32,
            threads=4,
        ),
        optimizer=Optimizer(learning_rate=5e-4),
        steps=40_000,
    ).to_config()
    if arg == "debug":
        shrink(config)
    return config


def shrink(config: ml_collections.ConfigDict) -> None:
    """Reduces a config to a hundred steps of a tiny model."""
    board_tiny.shrink(config)
    config.model.variant = "tiny"
    config.steps, config.log_every, config.validate_every = 100, 10, 50
    config.checkpoint_every, config.validation_batches = 100, 2
    config.data.images, config.data.threads = 8, 1
    config.optimizer.learning_rate = 2e-3
