"""Orbax checkpoints of a run: what is saved has a name and a schema.

    <workdir>/checkpoints/<step>/params      the model's tree (and `dense` while
                                             pre-training), an item of its own
                                 opt_state   the optimizer's tree
                                 data        JSON: where the data stream stands
                                 metadata    JSON: format, step, model, config, sums
                                 metrics     JSON: validation, where there was one

Steps appear under their name only when complete (Orbax renames them), so a killed
save leaves nothing that could be mistaken for a checkpoint. What was damaged later is
found by sums over the bits of the arrays, which do not depend on the mesh; the newest
step that is whole is resumed. A save that fails costs no run: it is told and counted.
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
    warn,
)
from swm_jax.checkpoints.run.retention import SAVE_TIMEOUT, KeepBest, manager_options
from swm_jax.choices import first_line

FORMAT = "swm_jax"
FORMAT_VERSION = 1
DAMAGED = "damaged-"  # a step's folder is renamed to this and its number


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a run goes on with.

    Attributes:
      step: of the checkpoint.
      params, opt_state: in the shapes and shardings asked for.
      data: where the data stream stands.
      skipped: newer steps that were damaged, each with the reason.
    """

    step: int
    params: Any
    opt_state: Any
    data: dict[str, Any]
    skipped: tuple[str, ...]


def checkpoints_folder(workdir: epath.PathLike) -> epath.Path:
    """Where a run keeps its checkpoints; gs:// paths stay what they are."""
    return absolute(workdir) / "checkpoints"


def absolute(path: epath.PathLike) -> epath.Path:
    """As `Path.absolute`, for object stores too."""
    path = epath.Path(path)
    return path if path.is_absolute() else path.absolute()


class RunCheckpoints:
    """Saves and restores the state of one run; saves are asynchronous.

    All processes of a run must call the same methods in the same order.

    Args:
      workdir: the run's folder.
      keep: how many of the newest checkpoints stay.
      best: which others stay; None for no others.
      timeout: seconds after which a save that is not complete has failed; a process
        whose own part is written waits so long for one that cannot write.

    Raises:
      OSError: the folder cannot be made.
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
        self.trouble: str | None = None
        if best is not None and jax.process_index() == 0:
            self._forget_broken_metrics()
        self._open()

    def latest_step(self) -> int | None:
        """The newest complete step, or None in a new run."""
        return self._manager.latest_step() if self._manager else None

    def best_step(self) -> int | None:
        """The best of the steps that were validated, or None."""
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
        """Starts saving; returns once the arrays are copied off the device.

        A failure, of this save or of the last one, does not raise: it is a warning
        and stands in `trouble` until a save succeeds.

        Raises:
          ValueError: `metrics` lacks the one that decides which are best.
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
        """Whether no process had trouble with the last save; all must ask."""
        return all_agree(self.trouble is None)

    def poll(self) -> None:
        """Tells of a save that has failed meanwhile; waits for nothing."""
        manager = self._manager
        if self._saving is None or manager is None:
            return
        if not manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Blocks until the last save is complete, or has failed and was told."""
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
        """Reads the newest step that is whole into the given shapes and shardings.

        Newer ones that are damaged are renamed to `damaged-<step>`, once an older
        one has been read.

        Args:
          params, opt_state: arrays or shape structs of what is expected.
          check: called with a step's metadata; what it raises is passed on.

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
        """The JSON that stands beside the arrays of a step.

        Raises:
          DamagedCheckpoint: it is missing or no JSON, for any process.
        """
        return self._together(step, lambda: self._json(step, "metadata"))

    def restore(self, step: int, params: Any, opt_state: Any) -> Restored:
        """Reads one step into the shapes and shardings of the given trees.

        Raises:
          DamagedCheckpoint: it does not hold these trees, or not these bits.
        """

        def read():
            # The handlers themselves: a manager would wait for processes that failed.
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
            with contextlib.suppress(Exception):  # told when it happened
                self._manager.close()
        self._manager = None

    def _open(self) -> ocp.CheckpointManager:
        mute_late_writes()
        # A barrier that some processes never reached cannot be used again.
        self._opened += 1
        apart = ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=f"manager_{self._opened}"
        )
        options = dataclasses.replace(self._options, multiprocessing_options=apart)
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self._manager

    def _reopen(self) -> None:
        """A manager whose save has failed is not used again."""
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
        """What every process could read; damage that one finds is damage for all."""
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
        # Orbax calls the file of every JSON item so.
        return json.loads((self.folder / str(step) / item / "metadata").read_text())

    def _forget_broken_metrics(self) -> None:
        """Orbax reads all steps' metrics when it opens, and fails at a broken one."""
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
        """The scalar that decides, if there is one."""
        if self._best is None or not metrics:
            return None
        value = metrics.get(self._best.metric)
        if value is None:
            raise ValueError(
                f"keep_best.metric is '{self._best.metric}'; known: "
                f"{', '.join(sorted(metrics))}"
            )
        return {self._best.metric: float(value)} if np.isfinite(value) else None
