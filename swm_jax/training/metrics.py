"""The metrics log: JSON lines for programs, TensorBoard for people.

The JSONL file holds every logged step once: on resume, lines of steps that will
be run again are cut off before new ones are written.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter


class MetricsLog:
    """Writes scalars of a run to `metrics.jsonl` and to TensorBoard event files."""

    def __init__(self, workdir: str | Path, resume_step: int = 0):
        """Opens the log in `workdir`, keeping only lines up to `resume_step`."""
        self.path = Path(workdir) / "metrics.jsonl"
        kept = [row for row in read_metrics(workdir) if row["step"] <= resume_step]
        temporary = self.path.with_suffix(".jsonl.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temporary, self.path)
        self._file = self.path.open("a", buffering=1)
        self._board = SummaryWriter(str(Path(workdir) / "tensorboard"))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line; numbers become plain floats."""
        row = {name: float(value) for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        for name, value in row.items():
            if np.isfinite(value):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both files."""
        self._file.close()
        self._board.close()


def read_metrics(workdir: str | Path) -> list[dict[str, float]]:
    """The lines of a run's log in order; a last line cut short is left out."""
    path = Path(workdir) / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Progress:
    """One line of progress with a rate and the time left."""

    def __init__(self, start_step: int, total_steps: int, examples_per_step: int):
        self._start, self._total = start_step, total_steps
        self._examples = examples_per_step
        self._then, self._then_step = time.monotonic(), start_step

    def rate(self, step: int) -> tuple[float, float]:
        """(steps per second since the last call, seconds left at that rate)."""
        now = time.monotonic()
        rate = (step - self._then_step) / max(now - self._then, 1e-9)
        self._then, self._then_step = now, step
        return rate, (self._total - step) / max(rate, 1e-9)

    def line(self, step: int, rate: float, left: float, scalars: Mapping) -> str:
        """Text such as "step 200/4000 loss 0.412 ... 31 images/s, 0:42:10 left"."""
        numbers = " ".join(f"{name} {value:.3f}" for name, value in scalars.items())
        hours, rest = divmod(int(left), 3600)
        return (
            f"step {step}/{self._total} {numbers} "
            f"{rate * self._examples:.1f} images/s, "
            f"{hours}:{rest // 60:02d}:{rest % 60:02d} left"
        )
