"""Metrics log: JSON lines and TensorBoard events.

The JSONL file has every logged step once: on resume, lines after the restored step are
removed. Storage failures do not stop training: lines stay in memory and are written
with the next ones.
"""

import json
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from swm_jax.cli import clock, warn
from swm_jax.files import write_whole

METRICS_FILE = "metrics.jsonl"
UPLOAD_EVERY = 30.0  # seconds between uploads: object stores cannot append to a file


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is in an object store, such as gs://bucket/run."""
    return "://" in os.fspath(path)


class MetricsLog:
    """Writes scalars of a run to `metrics.jsonl` and to TensorBoard event files.

    Args:
      workdir: the run's folder; in an object store the whole file is uploaded at most
        every `UPLOAD_EVERY` seconds and before checkpoints.
      resume_step: lines up to this step are kept.

    Attributes:
      kept: rows of earlier starts up to `resume_step`.

    Raises:
      OSError: the log cannot be opened.
    """

    def __init__(self, workdir: epath.PathLike, resume_step: int = 0):
        workdir = epath.Path(workdir)
        self.kept = [row for row in read_metrics(workdir) if row["step"] <= resume_step]
        self._lines = "".join(_line(row) for row in self.kept).encode()
        remote = is_remote(workdir)
        store = _RemoteFile if remote else _LocalFile
        self._store = store(workdir / METRICS_FILE, self._lines)
        self._pending = b""
        self._board = _Board(workdir / "tensorboard", remote)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line; NaN and infinity are omitted."""
        row = {name: float(value) for name, value in scalars.items()}
        row = {name: value for name, value in row.items() if np.isfinite(value)}
        self._pending += _line({"step": step, **row}).encode()
        self._drain(False)
        self._board.write(step, row)

    def sync(self) -> None:
        """Flushes all lines; called before a save, so the log covers saved steps."""
        self._drain(True)

    def close(self) -> None:
        """Flushes and closes both logs."""
        self._drain(True)
        self._store.close()
        self._board.close()

    def _drain(self, now: bool) -> None:
        try:
            self._store.append(self._pending, now)
            self._pending = b""
        except Exception as error:  # object stores raise kinds of their own
            warn(f"{METRICS_FILE} cannot be written ({error}); its lines are kept")


class _LocalFile:
    """Appending file; a failed append is truncated, so that lines stay whole."""

    def __init__(self, path: epath.Path, content: bytes):
        self._path = pathlib.Path(path)
        if not self._path.exists() or not self._path.read_bytes().startswith(content):
            write_whole(self._path, content)  # missing, or formatted differently
        self._file = self._path.open("ab", buffering=0)
        self._size = len(content)
        self._file.truncate(self._size)

    def append(self, content: bytes, now: bool) -> None:
        try:
            written = self._file.write(content) if content else 0
            if written != len(content):
                raise OSError(f"only {written} of {len(content)} bytes fit")
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(content)

    def close(self) -> None:
        self._file.close()


class _RemoteFile:
    """File in an object store, rewritten as a whole at intervals."""

    def __init__(self, path: epath.Path, content: bytes):
        self._path, self._content = path, content
        self._due = 0.0
        self._dirty = not path.exists() or path.read_bytes() != content
        self.append(b"", True)

    def append(self, content: bytes, now: bool) -> None:
        self._dirty |= bool(content)
        if self._dirty and (now or time.monotonic() >= self._due):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(self._content + content)
            self._due, self._dirty = time.monotonic() + UPLOAD_EVERY, False
        self._content += content

    def close(self) -> None:
        pass


class _Board:
    """TensorBoard events; a failure gives one warning and is otherwise ignored."""

    def __init__(self, folder: epath.Path, remote: bool):
        self._folder, self._broken = folder, False
        self._local = tempfile.mkdtemp(prefix="tensorboard-") if remote else None
        self._due, self._writer = time.monotonic() + UPLOAD_EVERY, None

    def write(self, step: int, row: Mapping[str, float]) -> None:
        with _TellOnce(self):
            if self._writer is None:
                local = pathlib.Path(self._local or self._folder)
                local.mkdir(parents=True, exist_ok=True)
                self._writer = EventsWriter(str(local / "events"))
            for name, value in row.items():
                scalar = summary.scalar(name, value)
                event = event_pb2.Event(  # pyright: ignore[reportAttributeAccessIssue]  # made by protobuf on import
                    wall_time=time.time(), step=step, summary=scalar
                )
                self._writer.write_event(event)
            self._writer.flush()
            if self._local and time.monotonic() >= self._due:
                self._upload(self._local)

    def close(self) -> None:
        with _TellOnce(self):
            if self._writer is not None:
                self._writer.close()
                if self._local:
                    self._upload(self._local)

    def _upload(self, local: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in pathlib.Path(local).iterdir():
            (self._folder / path.name).write_bytes(path.read_bytes())
        self._due = time.monotonic() + 2 * UPLOAD_EVERY


class _TellOnce:
    """Context manager that turns the first error of a board into a warning."""

    def __init__(self, board: _Board):
        self._board = board

    def __enter__(self):
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        if not self._board._broken:
            warn(f"TensorBoard events cannot be written ({error})")
        self._board._broken = True
        return True


def read_metrics(workdir: epath.PathLike) -> list[dict[str, float]]:
    """Rows of a run's log in order, up to the first truncated line."""
    path = epath.Path(workdir) / METRICS_FILE
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(row) + "\n"


class Progress:
    """Progress line with rate and remaining time."""

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
        """The text: "step 200/4000 loss 0.412 .. 31.0 images/s, 42:10 left"."""
        numbers = " ".join(f"{name} {value:.3f}" for name, value in scalars.items())
        return (
            f"step {step}/{self._total} {numbers} "
            f"{rate * self._examples:.1f} images/s, "
            f"{clock(left)} left"
        )
