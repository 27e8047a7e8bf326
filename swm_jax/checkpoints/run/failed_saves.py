"""Handling of failed saves: reason, agreement between processes, cleanup, muting.

Orbax aborts a save at the first array that cannot be written and closes its event loop.
The writes of other arrays end later: TensorStore prints a traceback for each, hundreds
of lines, and Python reports coroutines that were never awaited. The save's own error
has all the information, so these reports are dropped.
"""

import sys
import time
import warnings

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from swm_jax.choices import first_line

SWEEPS = 10


def mute_late_writes() -> None:
    """Drops "Event loop is closed" reports of late writes; call before saving."""
    if not isinstance(sys.unraisablehook, _WithoutClosedLoops):
        sys.unraisablehook = _WithoutClosedLoops(sys.unraisablehook)


def mute_unbegun_writes() -> None:
    """Drops warnings about coroutines never awaited; call after a failure."""
    warnings.filterwarnings(
        "ignore", message="coroutine .* was never awaited", category=RuntimeWarning
    )


class _WithoutClosedLoops:
    """`sys.unraisablehook` that drops "Event loop is closed" from TensorStore.

    `unraisable.object` is None for callbacks from TensorStore's own threads, and set
    for errors in Python finalizers and callbacks.
    """

    def __init__(self, hook):
        self._hook = hook

    def __call__(self, unraisable) -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"
        if not (closed and unraisable.object is None):
            self._hook(unraisable)


def all_agree(ok: bool) -> bool:
    """Whether `ok` is True in every process; a collective, called by all."""
    if jax.process_count() == 1:
        return ok
    return bool(multihost_utils.process_allgather(np.array(ok)).all())


def probe(folder: epath.Path) -> None:
    """Raises an OSError if a process cannot write; Orbax would take minutes."""
    path = folder / f"probe-{jax.process_index()}"
    reason = None
    try:
        path.write_bytes(b"x")
        path.unlink()
    except Exception as error:  # object stores raise kinds of their own
        reason = first_line(error)
    if not all_agree(reason is None):
        raise OSError(reason or "another process cannot write")


def remove_half_written(folder: epath.Path) -> None:
    """Removes temporary folders of failed saves, to free storage."""
    # Repeated, because threads of the failed save may still be writing.
    for _ in range(SWEEPS):
        try:
            for path in folder.glob("*.orbax-checkpoint-tmp*"):
                path.rmtree()
            return
        except OSError:
            time.sleep(0.5)


def first_reason(error: BaseException, timeout: int) -> str:
    """The root cause of a failed save.

    After a write error the save also times out waiting for the other processes, so
    timeouts are followed to the error they were raised in.
    """
    while _is_timeout(error) and error.__context__ is not None:
        error = error.__context__
    if not _is_timeout(error):
        return first_line(error)
    return (
        f"not complete after {timeout} s, because another process cannot "
        "write or the storage is slow (config.save_timeout)"
    )


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or "DEADLINE_EXCEEDED" in str(error)
