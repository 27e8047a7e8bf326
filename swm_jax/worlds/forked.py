"""Detection of processes that were forked while JAX ran, where JAX waits for ever.

JAX has threads, which a fork does not copy, and locks that they may hold. Gymnasium's
`AsyncVectorEnv` forks its workers on Linux unless it is told otherwise.
"""

import os

from jax._src import xla_bridge  # there is no public way to ask whether JAX runs

MESSAGE = (
    "this process was forked from one in which JAX runs, and JAX would wait here for "
    "ever: use gymnasium.make_vec(..., vectorization_mode='vector_entry_point'), which "
    "steps all envs at once, or vectorization_mode='async' with "
    "vector_kwargs={'context': 'spawn'}"
)
_found = {"runs": False, "forked": False}


def _before() -> None:
    _found["runs"] = xla_bridge.backends_are_initialized()


def _in_child() -> None:
    _found["forked"] = _found["runs"] or _found["forked"]


os.register_at_fork(before=_before, after_in_child=_in_child)


def check_not_forked() -> None:
    """Raises RuntimeError in a process that was forked while JAX ran."""
    if _found["forked"]:
        raise RuntimeError(MESSAGE)
