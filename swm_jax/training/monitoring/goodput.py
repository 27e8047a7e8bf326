"""Wall time of a run by phase, and its goodput.

Phases are timed on the host without synchronising: the time of steps is that of their
dispatch plus waits for results when the loop logs. Goodput is the share of time in
steps whose results were kept; start-up, compilation, waiting for data, validation,
saving, and steps repeated after a restart are excluded.

`runtime.json` in the workdir sums the times of all starts. It is rewritten with every
row of metrics, because a killed process cannot write it at its end.
"""

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

from etils import epath

from swm_jax.cli import clock

PHASES = ("start", "compile", "data", "step", "validate", "save", "other")


class PhaseClock:
    """Stopwatch by phase; time outside all phases is "other"."""

    def __init__(self):
        self.began = time.time()
        self._since, self._sums = time.monotonic(), defaultdict(float)
        self._inside = 0.0

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Counts the block's time as `phase`; phases do not nest."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self._sums[phase] += spent
            self._inside += spent

    def charge(self, phase: str) -> None:
        """Assigns all unassigned time so far to `phase`."""
        now = time.monotonic()
        self._sums[phase] += max(now - self._since - self._inside, 0.0)
        self._inside = now - self._since

    def take(self) -> dict[str, float]:
        """Seconds of every phase since the last call."""
        now = time.monotonic()
        sums = {phase: self._sums[phase] for phase in PHASES}
        sums["other"] = max(now - self._since - self._inside, 0.0)
        self._since, self._inside = now, 0.0
        self._sums.clear()
        return sums


class Goodput:
    """Sums of phases over all starts of a run.

    Args:
      workdir: folder of `runtime.json`, which is read and written.
      rows: rows of metrics kept by this start (`MetricsLog.kept`).
      began: start time in seconds since the epoch.
      writes: whether this process writes the file.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        rows: Sequence[dict],
        began: float,
        writes: bool = True,
    ):
        self._path, self._writes = epath.Path(workdir) / "runtime.json", writes
        self._kept = sum(row.get("seconds/step", 0.0) for row in rows)
        ledger = _read(self._path)
        self._first = ledger.get("first_start", began)
        self._starts = ledger.get("starts", 0) + 1
        self._seconds = {
            phase: float(ledger.get("seconds", {}).get(phase, 0.0)) for phase in PHASES
        }

    def add(self, seconds: dict[str, float]) -> float:
        """Adds the seconds of a `PhaseClock`, and saves.

        Returns:
          The goodput of all starts so far, from 0 to 1.
        """
        for phase, spent in seconds.items():
            self._seconds[phase] += spent
        self._kept += seconds["step"]
        if self._writes:
            ledger = {
                "first_start": self._first,
                "starts": self._starts,
                "seconds": self._seconds,
            }
            temporary = self._path.parent / (self._path.name + ".tmp")
            # A failure is not fatal: the next row rewrites the file.
            with contextlib.suppress(Exception):
                temporary.write_text(json.dumps(ledger))
                temporary.replace(self._path)
        return self.share()

    def share(self) -> float:
        """Time in kept steps as a share of the run's total time."""
        return self._kept / max(sum(self._seconds.values()), 1e-9)

    def summary(self) -> str:
        """Summary line for the end of a run."""
        total = sum(self._seconds.values())
        lost = max(self._seconds["step"] - self._kept, 0.0)
        parts = {**self._seconds, "steps run again": lost}
        del parts["step"]
        told = ", ".join(
            f"{name} {clock(spent)}" for name, spent in parts.items() if spent >= 0.5
        )
        starts = f"{self._starts} start{'s' if self._starts > 1 else ''}"
        return (
            f"goodput {self.share():.1%}: {clock(self._kept)} of {clock(total)} in "
            f"steps that count ({starts}, {clock(time.time() - self._first)} since "
            f"the first); {told or 'nothing'} besides"
        )


def _read(path: epath.Path) -> dict:
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, json.JSONDecodeError):
        return {}
