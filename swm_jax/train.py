"""Trains what a config describes.

    python -m swm_jax.train --config experiments/board_tiny.py:pretrain --workdir runs/a
    python -m swm_jax.train --config experiments/board_tiny.py --workdir runs/b \\
        --config.init_from=runs/a

Run again with the same `--workdir`, it continues.
"""

import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from swm_jax.checkpoints import CheckpointError
from swm_jax.training import TrainingError, train

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment config file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Logs, metrics and checkpoints.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Prints the plan, trains, says where the result lies."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; flags start with --")
    logging.set_verbosity(logging.WARNING)  # Orbax tells every file it touches
    config = _CONFIG.value
    print(
        f"training {config.name} ({config.stage}): {config.model.variant}, layout "
        f"{config.model.layout}, {config.steps} steps of {config.data.images} images "
        f"on {jax.device_count()} {jax.devices()[0].platform} device(s)",
        flush=True,
    )
    try:
        result = train(config, _WORKDIR.value)
    except (CheckpointError, TrainingError, ValueError) as error:
        sys.exit(f"error: {error}")
    if result:
        print(f"held-out accuracy {result['validation/accuracy']:.3f}")
    print(f"checkpoints and metrics are in {_WORKDIR.value}")


if __name__ == "__main__":
    app.run(main)
