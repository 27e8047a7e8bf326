"""Keeps what a failed save leaves behind from burying the warning about it.

Orbax gives a save up at the first array that cannot be written and closes its event
loop. The other arrays' writes end later: TensorStore then prints a traceback for each,
hundreds of lines in all, and coroutines that never began are reported when they are
freed. None of it says more than the save's own error did.
"""

import sys
import warnings


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
