"""What an evaluation says while it runs: rate, time left, and a table at the end."""

import sys
import time
from collections.abc import Sequence


class Progress:
    """Counts work of one kind; rewrites its line on a terminal, adds lines elsewhere.

    Elsewhere (a log file) a line appears at most every `quiet` seconds and at the end.
    """

    def __init__(self, name: str, total: int, unit: str, quiet: float = 10.0):
        self._name, self._total, self._unit = name, total, unit
        self._began, self._said, self._quiet = time.monotonic(), 0.0, quiet
        self._live = sys.stdout.isatty()

    def __call__(self, done: int, note: str = "") -> None:
        """Reports that `done` of the total are finished."""
        now = time.monotonic()
        last = done >= self._total
        if not self._live and not last and now - self._said < self._quiet:
            return
        self._said = now
        text = self.line(done, now - self._began, note)
        if self._live:
            print(f"\r\x1b[2K{text}", end="\n" if last else "", flush=True)
        else:
            print(text, flush=True)

    def line(self, done: int, seconds: float, note: str = "") -> str:
        """Such as "planning 12/45 episodes, 0.8/s, 0:41 left  reach swm"."""
        rate = done / max(seconds, 1e-9)
        parts = [f"  {self._name} {done}/{self._total} {self._unit}"]
        if done and seconds > 0.5:
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
        if 0 < done < self._total:
            parts.append(f"{clock((self._total - done) / rate)} left")
        elif done:
            parts.append(f"in {clock(seconds)}")
        return ", ".join(parts) + (f"  {note}" if note else "")


def clock(seconds: float) -> str:
    """Minutes and seconds, hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: int = 1) -> str:
    """Aligned columns; those from `numeric` on to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    align = lambda i, cell: (
        cell.rjust(widths[i]) if i >= numeric else cell.ljust(widths[i])
    )
    line = lambda row: "  " + "  ".join(align(i, c) for i, c in enumerate(row)).rstrip()
    rule = "  " + "  ".join("-" * w for w in widths)
    return "\n".join([line(head), rule, *map(line, rows)])
