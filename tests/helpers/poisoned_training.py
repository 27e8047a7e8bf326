"""`swm_jax.train` with batches that give no finite gradient, for tests.

python -m tests.helpers.poisoned_training POISONED ...    steps as 2,5; then as usual
"""

import sys

import jax.numpy as jnp

from swm_jax import train
from swm_jax.cli import run_command
from swm_jax.training.world_model.inputs import WorldModelInputs

_stream = WorldModelInputs.stream


def _poisoned(steps):
    def stream(self, start_step):
        for step, batch in enumerate(_stream(self, start_step), start_step + 1):
            if step in steps:
                centre = jnp.full_like(batch.dense.centre, jnp.nan)
                batch = batch.replace(dense=batch.dense.replace(centre=centre))
            yield batch

    return stream


if __name__ == "__main__":
    WorldModelInputs.stream = _poisoned(
        {int(step) for step in sys.argv.pop(1).split(",")}
    )
    run_command(train.main)
