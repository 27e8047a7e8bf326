"""`swm_jax.train` without room for a checkpoint until a save has failed, for tests.

python -m tests.helpers.starved_training ...    flags as usual
"""

import resource

from swm_jax import train
from swm_jax.checkpoints import RunCheckpoints
from swm_jax.cli import run_command

_reopen = RunCheckpoints._reopen
_before = resource.getrlimit(resource.RLIMIT_FSIZE)


def _with_room(self):
    resource.setrlimit(resource.RLIMIT_FSIZE, _before)
    _reopen(self)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, _before[1]))
    RunCheckpoints._reopen = _with_room
    run_command(train.main)
