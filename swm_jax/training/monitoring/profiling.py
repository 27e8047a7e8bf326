"""Profiler traces of given steps, or on a signal.

    --profile_steps=100:110     steps 101 to 110
    kill -USR1 <process id>     the next `ON_SIGNAL` steps

Traces are in `<workdir>/profile`, each in a folder named by its first step, for
TensorBoard's profile plugin and Perfetto.
"""

import contextlib
import pathlib
import shutil
import signal
import tempfile
from typing import Any

import jax
from etils import epath

ON_SIGNAL = 5


def parse_steps(text: str) -> tuple[int, int] | None:
    """Parses "100:110" to (100, 110), an empty text to None.

    Raises:
      ValueError: not two ascending numbers.
    """
    if not text:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise ValueError(
            f"--profile_steps is '{text}', expected first:last, for example 100:110"
        )
    return int(first), int(last)


class Profiler:
    """Starts and stops traces between steps.

    Args:
      workdir: traces are written to its `profile` folder.
      steps: completed steps at (start, stop), or None.
    """

    def __init__(self, workdir: epath.PathLike, steps: tuple[int, int] | None = None):
        self._folder = epath.Path(workdir) / "profile"
        self._first, self._last = steps or (-1, -1)
        self._local: str | None = None
        self._asked, self._before = False, None
        # Python allows signal handlers in the main thread only.
        with contextlib.suppress(ValueError):
            self._before = signal.signal(signal.SIGUSR1, self._remember)

    def before(self, step: int) -> None:
        """Call with the number of completed steps, before the next one."""
        if self._asked and self._local is None:
            self._asked, self._first, self._last = False, step, step + ON_SIGNAL
        if self._first == step and self._local is None:
            self._local = tempfile.mkdtemp(prefix="profile-")
            jax.profiler.start_trace(self._local)

    def after(self, step: int, result: Any) -> str | None:
        """Call with the number of completed steps; blocks on `result` to end a trace.

        Returns:
          Folder of the trace, if one ended.
        """
        if self._local is None or step < self._last:
            return None
        jax.block_until_ready(result)
        return self._stop(self._local)

    def close(self) -> None:
        """Ends an open trace, restores the signal handler."""
        if self._local is not None:
            self._stop(self._local)
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)

    def _stop(self, traced: str) -> str:
        jax.profiler.stop_trace()
        local, self._local = pathlib.Path(traced), None
        # The profiler writes local files only, in folders named by time.
        folder = self._folder / "plugins/profile" / f"from_step_{self._first + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        for path in local.rglob("*"):
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
        shutil.rmtree(local)
        return str(self._folder)

    def _remember(self, number, frame) -> None:
        self._asked = True
