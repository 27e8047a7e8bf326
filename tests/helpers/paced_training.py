"""`swm_jax.train` with a pause before every step, for tests that kill it in between.

python -m tests.helpers.paced_training SECONDS ...    then flags as usual
"""

import sys
import time

from swm_jax import train
from swm_jax.cli import run_command
from swm_jax.training.world_model.inputs import WorldModelInputs

_stream = WorldModelInputs.stream


def _paced(seconds):
    def stream(self, start_step):
        for batch in _stream(self, start_step):
            time.sleep(seconds)
            yield batch

    return stream


if __name__ == "__main__":
    WorldModelInputs.stream = _paced(float(sys.argv.pop(1)))
    run_command(train.main)
