"""One model for the board and the cube arm, variant `small`.

board_and_cube.py          for one accelerator
board_and_cube.py:debug    tiny, a few steps, for tests and to try it on a CPU

    python -m data_pipelines.generate --config experiments/generate_board.py \\
        --output data/board
    python -m data_pipelines.generate --config experiments/generate_cube.py \\
        --output data/cube
    python -m swm_jax.train --config experiments/board_and_cube.py --workdir runs/both

Which robot it is, the picture and the words say. An action has five numbers: the
board's two stand first, zeros behind them. Both domains' actions are scaled by their
own quantiles, as one moves by centimetres and the other by shares of its reach; the
scales go into the checkpoint, so planners go on speaking raw actions.
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
            f"board_and_cube.py has no variant '{arg}'{hint}; known: {', '.join(ARGS)}"
        )
    config = board_tiny.get_config("debug" if arg == "debug" else "swm")
    config.name = "board_and_cube"
    config.model.tokenizer = "board_cube"
    config.model.overrides.action_size = 5
    config.model.overrides.action_scale = 1.0  # quantiles have done it
    data = config.data.to_dict()
    data["dir"] = (
        {"dir": "data/board", "weight": 1.0},
        {"dir": "data/cube", "weight": 1.0},
    )
    data["actions"] = "quantile"
    data["frames"] = "compressed"  # decoded when drawn: a sixteenth of the memory
    data["rendered_every"] = 0
    config.data = ml_collections.ConfigDict(data)
    config.steps = 40_000
    config.data.images = 32
    config.data.threads = 4
    config.model.variant = "small"
    config.optimizer.learning_rate = 5e-4
    if arg == "debug":
        config.model.variant = "tiny"
        config.steps, config.log_every, config.validate_every = 100, 10, 50
        config.checkpoint_every, config.validation_batches = 100, 2
        config.data.images, config.data.threads = 8, 1
        config.optimizer.learning_rate = 2e-3
    return config
