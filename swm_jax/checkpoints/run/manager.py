"""Orbax checkpoints of a run: asynchronous saves, verified resume.

    <workdir>/checkpoints/<step>/params      the model's tree (and `dense` while
                                             pre-training), an item of its own
                                 opt_state   the optimizer's tree
                                 data        JSON: position of the data stream
                                 metadata    JSON: format, step, model, config, sums
                                 metrics     JSON: validation scalars, if any

Orbax renames steps when they are complete, so a killed save leaves no partial
checkpoint. Later damage is detected by checksums of the arrays, which do not depend on
the mesh; the newest intact step is resumed. A failed save is a warning, not an error.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from swm_jax.checkpoints.errors import CheckpointError, DamagedCheckpoint, listed
from swm_jax.checkpoints.run.checksums import bit_sums
from swm_jax.checkpoints.run.failed_saves import (
    all_agree,
    first_reason,
    mute_late_writes,
    mute_unbegun_writes,
    probe,
    remove_half_written,
)
from swm_jax.checkpoints.run.retention import SAVE_TIMEOUT, KeepBest, manager_options
from swm_jax.choices import first_line
from swm_jax.cli import warn
from swm_jax.files import user_path

FORMAT = "swm_jax"
FORMAT_VERSION = 1
DAMAGED = "damaged-"  # prefix of renamed folders of damaged steps


@dataclasses.dataclass(frozen=True)
class Restored:
    """A restored checkpoint.

    Attributes:
      step: of the checkpoint.
      params, opt_state: in the requested shapes and shardings.
      data: position of the data stream.
      skipped: one message per newer, damaged step.
    """

    step: int
    params: Any
    opt_state: Any
    data: dict[str, Any]
    skipped: tuple[str, ...]


def checkpoints_folder(workdir: epath.PathLike) -> epath.Path:
    """The checkpoints folder of a run; accepts gs:// paths."""
    return absolute(workdir) / "checkpoints"


def absolute(path: epath.PathLike) -> epath.Path:
    """`Path.absolute` of a user's path, which may be in an object store."""
    path = epath.Path(user_path(path))
    return path if path.is_absolute() else path.absolute()


class RunCheckpoints:
    """Saves and restores the state of one run; saves are asynchronous.

    All processes of a run must call the same methods in the same order.

    Args:
      workdir: the run's folder.
      keep: number of newest checkpoints to keep.
      best: best checkpoints to keep too; None for none.
      timeout: seconds after which an incomplete save has failed; also the time that a
        process waits for the others' parts.


    Raises:
      OSError: the folder cannot be created.
      ValueError: `keep` or `timeout` is not a whole number from 1 on.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        keep: int = 2,
        best: KeepBest | None = None,
        timeout: int = SAVE_TIMEOUT,
    ):
        self.folder = checkpoints_folder(workdir)
        self._options = manager_options(keep, best, timeout)
        self._timeout, self._opened = timeout, 0
        self._best = best
        self._manager: ocp.CheckpointManager | None = None
        self._saving: int | None = None
        self.trouble: str | None = None  # reason of the last save's failure
        if best is not None and jax.process_index() == 0:
            self._forget_broken_metrics()
        self._open()

    def latest_step(self) -> int | None:
        """The newest complete step, or None in a new run."""
        return self._manager.latest_step() if self._manager else None

    def best_step(self) -> int | None:
        """The best validated step, or None."""
        return self._manager.best_step() if self._manager and self._best else None

    def save(
        self,
        step: int,
        params: Any,
        opt_state: Any,
        data: dict[str, Any],
        metadata: dict[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts an asynchronous save; returns once the arrays are copied to the host.

        A failure of this or of the previous save gives a warning and sets `trouble`
        until a save succeeds.

        Raises:
          ValueError: `metrics` lacks `best.metric`.
        """
        deciding = self._deciding(metrics)
        self.wait()
        if not self.all_saved():
            self._reopen()
        elif step == self.latest_step():
            return
        with self._telling(step):
            probe(self.folder)
            manager = self._manager or self._open()
            if step in manager.all_steps():
                return
            schema = {"format": FORMAT, "format_version": FORMAT_VERSION, "step": step}
            sums = {"params": bit_sums(params), "opt_state": bit_sums(opt_state)}
            self._saving = step
            manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    opt_state=ocp.args.StandardSave(opt_state),
                    data=ocp.args.JsonSave(data),
                    metadata=ocp.args.JsonSave({**schema, **metadata, "sums": sums}),
                ),
                metrics=deciding,
                force=True,
            )

    def all_saved(self) -> bool:
        """Whether the last save succeeded in all processes; a collective."""
        return all_agree(self.trouble is None)

    def poll(self) -> None:
        """Warns if the save in progress has failed; returns immediately."""
        manager = self._manager
        if self._saving is None or manager is None:
            return
        if not manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Blocks until the last save is complete, or has failed with a warning."""
        step, self._saving = self._saving, None
        if step is None or self._manager is None:
            return
        with self._telling(step):
            self._manager.wait_until_finished()
            if not (self.folder / str(step)).exists():
                raise OSError(f"{self.folder / str(step)} is not there")
            self.trouble = None

    def restore_newest(
        self, params: Any, opt_state: Any, check: Callable[[dict[str, Any]], None]
    ) -> Restored | None:
        """Restores the newest intact step into the given shapes and shardings.

        Damaged newer steps are renamed to `damaged-<step>`, once an older step has been
        restored.

        Args:
          params, opt_state: arrays or shape structs of the expected trees.
          check: called with a step's metadata; its errors propagate.

        Returns:
          None in a new run.

        Raises:
          CheckpointError: there are checkpoints, and none can be read.
        """
        skipped = []
        manager = self._manager or self._open()
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                check(self.metadata(step))
                found = self.restore(step, params, opt_state)
            except DamagedCheckpoint as error:
                skipped.append((step, str(error)))
                continue
            for bad, reason in skipped:
                self._set_aside(bad)
                warn(f"{reason}; going on from step {step}")
            if skipped:
                manager.reload()
            return dataclasses.replace(found, skipped=tuple(why for _, why in skipped))
        if not skipped:
            return None
        raise CheckpointError(
            f"no checkpoint in {self.folder} can be resumed: "
            f"{listed([reason for _, reason in skipped])}. All damaged, or written by "
            "another config; use another --workdir to begin anew"
        )

    def metadata(self, step: int) -> dict[str, Any]:
        """The metadata of a step.

        Raises:
          DamagedCheckpoint: missing or invalid JSON, in any process.
        """
        return self._together(step, lambda: self._json(step, "metadata"))

    def restore(self, step: int, params: Any, opt_state: Any) -> Restored:
        """Restores one step into the shapes and shardings of the given trees.

        Raises:
          DamagedCheckpoint: the trees do not match, or a checksum differs.
        """

        def read():
            # The manager's barriers would wait for processes that failed to read.
            arrays = [
                ocp.StandardCheckpointHandler().restore(
                    self.folder / str(step) / item, args=ocp.args.StandardRestore(tree)
                )
                for item, tree in (("params", params), ("opt_state", opt_state))
            ]
            return arrays, self._json(step, "data"), self._json(step, "metadata")

        arrays, data, metadata = self._together(step, read)
        for item, tree in zip(("params", "opt_state"), arrays):
            expected = metadata.get("sums", {}).get(item)
            if expected is not None and bit_sums(tree) != expected:
                raise DamagedCheckpoint(
                    f"{self.folder / str(step) / item} is damaged: its bits are not "
                    "those that were saved"
                )
        return Restored(step, arrays[0], arrays[1], data, ())

    def close(self) -> None:
        """Finishes the last save and frees the threads."""
        self.wait()
        if self._manager is not None:
            with contextlib.suppress(Exception):  # `wait` has warned already
                self._manager.close()
        self._manager = None

    def _open(self) -> ocp.CheckpointManager:
        mute_late_writes()
        # New barrier names: one that some processes never reached cannot be reused.
        self._opened += 1
        apart = ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=f"manager_{self._opened}"
        )
        options = dataclasses.replace(self._options, multiprocessing_options=apart)
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self._manager

    def _reopen(self) -> None:
        """Drops a manager whose save has failed, and its temporary folders."""
        manager, self._manager = self._manager, None
        if manager is not None:
            with contextlib.suppress(Exception):
                manager.close()
        if jax.process_index() == 0:
            remove_half_written(self.folder)

    @contextlib.contextmanager
    def _telling(self, step: int):
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds
            self._saving = None
            self.trouble = first_reason(error, self._timeout)
            mute_unbegun_writes()
            warn(
                f"step {step} could not be saved to {self.folder}: {self.trouble}. "
                "Training goes on, the next save tries again"
            )

    def _together(self, step: int, read: Callable[[], Any]) -> Any:
        """Runs `read` in every process; an error in one is raised in all."""
        found, reason = None, None
        try:
            found = read()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = first_line(error)
        if not all_agree(reason is None):
            raise DamagedCheckpoint(
                f"{self.folder / str(step)} cannot be read: "
                f"{reason or 'another process failed'}"
            )
        return found

    def _json(self, step: int, item: str) -> dict[str, Any]:
        # Orbax names the file of every JSON item "metadata".
        return json.loads((self.folder / str(step) / item / "metadata").read_text())

    def _forget_broken_metrics(self) -> None:
        """Deletes damaged metrics files, at which Orbax would fail on opening."""
        for path in self.folder.glob("*/metrics/metrics"):
            try:
                json.loads(path.read_text())
            except ValueError:
                path.unlink()
                warn(f"{path} is damaged: step {path.parts[-3]} is not kept as best")

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            target = self.folder / f"{DAMAGED}{step}"
            if target.exists():
                target.rmtree()
            (self.folder / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set_aside_{step}")

    def _deciding(self, metrics: Mapping[str, float] | None) -> dict | None:
        """The metric that ranks checkpoints, if it is given and finite."""
        if self._best is None or not metrics:
            return None
        value = metrics.get(self._best.metric)
        if value is None:
            raise ValueError(
                f"keep_best.metric is '{self._best.metric}'; known: "
                f"{', '.join(sorted(metrics))}"
            )
        return {self._best.metric: float(value)} if np.isfinite(value) else None
