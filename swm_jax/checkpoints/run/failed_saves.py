"""What a save that fails needs: its reason, agreement of processes, a clean folder.

Orbax gives a save up at the first array that cannot be written and closes its event
loop. The other arrays' writes end later: TensorStore then prints a traceback for each,
hundreds of lines in all, and coroutines that never began are reported when they are
freed. None of it says more than the save's own error did.
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
    """Drops writes' reports of a closed event loop; to be called before saving."""
    if not isinstance(sys.unraisablehook, _WithoutClosedLoops):
        sys.unraisablehook = _WithoutClosedLoops(sys.unraisablehook)


def mute_unbegun_writes() -> None:
    """Drops reports of coroutines that never began; to be called after a failure."""
    warnings.filterwarnings(
        "ignore", message="coroutine .* was never awaited", category=RuntimeWarning
    )


class _WithoutClosedLoops:
    """An unraisablehook that passes on all but compiled code's closed event loops.

    Python names the object in whose finalizer or callback something was raised;
    TensorStore, which calls back from threads of its own, has none to name.
    """

    def __init__(self, hook):
        self._hook = hook

    def __call__(self, unraisable) -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"
        if not (closed and unraisable.object is None):
            self._hook(unraisable)


def all_agree(ok: bool) -> bool:
    """Whether every process says yes; all must ask at the same point."""
    if jax.process_count() == 1:
        return ok
    return bool(multihost_utils.process_allgather(np.array(ok)).all())


def warn(message: str) -> None:
    """One line to stderr."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def probe(folder: epath.Path) -> None:
    """Raises where nothing can be written, which Orbax notices after minutes."""
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
    """Removes half-written steps, which need room; threads may still write one."""
    for _ in range(SWEEPS):
        try:
            for path in folder.glob("*.orbax-checkpoint-tmp*"):
                path.rmtree()
            return
        except OSError:
            time.sleep(0.5)


def first_reason(error: BaseException, timeout: int) -> str:
    """What went wrong first: who failed to write waits in vain for the rest."""
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
