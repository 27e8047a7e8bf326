"""The training loop: resume, step, log, validate, save.

A batch is a pure function of (seed, step), and a step of (state, batch), so a run that
was killed and resumed ends with the same parameters as an uninterrupted one. The loop
fetches numbers from the device only to log, validate or save; in between the host runs
ahead. Failure handling is described in docs/training.md.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from swm_jax.checkpoints import RunCheckpoints
from swm_jax.checkpoints.run.failed_saves import all_agree
from swm_jax.choices import known
from swm_jax.conditions import conditions
from swm_jax.endings import say
from swm_jax.files import user_path
from swm_jax.locks import locked
from swm_jax.training.bad_steps import (
    GIVE_UP,
    Tally,
    bad_steps,
    make_counter,
    what_is_bad,
    write_bad_batch,
)
from swm_jax.training.build import Start, build, initial_state
from swm_jax.training.distributed import StopSignal, is_first
from swm_jax.training.experiment import Training
from swm_jax.training.finetune import Finetune, count_parameters
from swm_jax.training.inputs import Inputs, place_batch, process_rows
from swm_jax.training.monitoring.goodput import Goodput, PhaseClock
from swm_jax.training.monitoring.metrics import MetricsLog, Progress
from swm_jax.training.monitoring.profiling import Profiler
from swm_jax.training.resume import TrainingError, changes, check_same_run
from swm_jax.training.sharding import make_mesh
from swm_jax.training.step import StepMetrics, TrainState
from swm_jax.training.trainable import Trainable


def fit(
    training: Training,
    trainable: Trainable,
    inputs: Callable[[Mesh], Inputs],
    workdir: epath.PathLike,
    *,
    metadata: Mapping[str, Any] | None = None,
    start: Start | None = None,
    profile_steps: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Runs `training.steps` steps, resuming from the newest checkpoint in `workdir`.

    On several hosts every process calls this, after `distributed.connect`.

    Args:
      training: settings of the loop.
      trainable: model and loss.
      inputs: mesh -> batches, called once.
      workdir: folder of logs, metrics and checkpoints; the same for all processes.
      metadata: JSON stored in checkpoints; resuming needs equal values for
        `resume.SAME`, and prints what else differs.
      start: (initialised parameters, shardings) -> parameters of step 0.
      profile_steps: (first, last): trace steps first + 1 to last.

    Returns:
      The last validation scalars.

    Raises:
      TrainingError: the loss is not finite, the workdir has a run of another model or
        one that is running, or the last state could not be saved.
      CheckpointError: there are checkpoints, and none can be read.
      ValueError: invalid settings.
    """
    clock = PhaseClock()
    best = training.keep_best
    if best:
        metrics = [f"validation/{name}" for name in trainable.metrics]
        known("config.keep_best.metric", best.metric, metrics)
    workdir = epath.Path(user_path(workdir))
    with contextlib.ExitStack() as stack:
        # First what may be wrong, which leaves nothing behind.
        run = _Run(training, trainable, inputs, workdir, clock, metadata or {})
        workdir.mkdir(parents=True, exist_ok=True)
        _claim(workdir, stack)
        checkpoints = RunCheckpoints(
            workdir, training.keep_checkpoints, best, training.save_timeout
        )
        stack.enter_context(contextlib.closing(checkpoints))
        stack.enter_context(contextlib.closing(run))
        run.begin(checkpoints, start, profile_steps)
        run.steps()
        return run.result


def _claim(workdir: epath.Path, stack: contextlib.ExitStack) -> None:
    """Locks the run's folder against a second run, in the first process for all.

    Raises:
      TrainingError: another run is writing to it.
    """
    trouble = None
    if is_first():
        try:
            stack.enter_context(locked(workdir))
        except BlockingIOError as error:
            trouble = str(error)
    if not all_agree(trouble is None):
        raise TrainingError(trouble or f"{workdir} is in use, as process 0 says")


class _Run:
    """State of the loop from one start of the process to its end."""

    checkpoints: RunCheckpoints

    def __init__(self, training, trainable, inputs, workdir, clock, metadata):
        self.config, self.trainable, self.workdir = training, trainable, workdir
        self.clock = clock
        self.metadata = {
            **metadata,
            "config": training.to_config().to_dict(),
            "conditions": conditions(),
        }
        if training.finetune != Finetune():
            self.metadata["finetune"] = training.finetune.describe()
        self.mesh = make_mesh(vars(training.mesh))
        self.built = build(training, trainable, self.mesh)
        self.count = make_counter(self.mesh)
        self.inputs = inputs(self.mesh)
        self.rows = process_rows(self.mesh, self.inputs.images)
        self.result, self.saved = {}, None
        self.log: MetricsLog | None = None
        self.profiler: Profiler | None = None
        self.stop: StopSignal | None = None

    def begin(self, checkpoints, start, profile_steps) -> None:
        """Creates or resumes the train state, opens data and logs."""
        config, built, self.checkpoints = self.config, self.built, checkpoints
        state = self._resume(built.state)
        if state is None:
            state = initial_state(config, self.trainable, built, start)
        self.state, self.step = state, int(state.step)
        if config.finetune != Finetune():
            total = built.state.params
            moving = config.finetune.split(total)[0]
            self._say(
                f"{count_parameters(moving):,} of {count_parameters(total):,} "
                "parameters move"
            )
        self.stream = self.inputs.stream(self.step)
        self.held_out = self.inputs.validation()
        self.log = MetricsLog(self.workdir, self.step) if is_first() else None
        kept = self.log.kept if self.log else ()
        self.goodput = Goodput(self.workdir, kept, self.clock.began, writes=is_first())
        self.progress = Progress(self.step, config.steps, self.inputs.images)
        self.profiler = Profiler(self.workdir, profile_steps if is_first() else None)
        self.stop = StopSignal()
        self.clock.charge("start")

    def steps(self) -> None:
        """Runs to the last step, or until a stop signal."""
        config, tally = self.config, None
        first, anew, stopped = self.step, False, False
        profiler, stop = self.profiler, self.stop
        assert profiler and stop, "begin() comes first"
        while self.step < config.steps and not stopped:
            profiler.before(self.step)
            with self.clock("data"):
                batch = place_batch(next(self.stream), self.mesh, self.rows)
            # The first call compiles.
            with self.clock("compile" if self.step == first else "step"):
                self.state, metrics = self.built.step(self.state, batch)
                self.step += 1
                tally = Tally.empty(metrics) if tally is None else tally
                tally, anew = self.count(tally, metrics, self.step, anew), False
            trace = profiler.after(self.step, self.state)
            if trace:
                self._say(f"profiler trace up to step {self.step} is in {trace}")
            stopped = stop.reached(self.step)
            last = self.step == config.steps
            logs = last or self.step % config.log_every == 0
            validates = last or self.step % config.validate_every == 0
            saves = last or stopped or self.step % config.checkpoint_every == 0
            if logs or validates or saves:
                self._check(tally)
            row = self._scalars(tally, metrics) if logs else {}
            anew = logs
            if validates:
                row |= self._validate()
            if row:  # before the save: the log then covers every saved step
                self._write(row)
            if saves:
                self._save(self.result if validates else None)
            else:
                self.checkpoints.poll()
        self._finish(stopped)

    def close(self) -> None:
        """Closes profiler, signal handlers and log."""
        for part in (self.profiler, self.stop, self.log):
            if part:
                part.close()

    def _resume(self, target: TrainState) -> TrainState | None:
        found = self.checkpoints.restore_newest(
            target.params, target.opt_state, self._take_up
        )
        if found is None:
            return None
        self._say(f"resumed {self.workdir} at step {found.step}")
        for line in changes(self.before, self.metadata):
            self._say(f"  other than before: {line}")
        step = jax.jit(
            lambda: jnp.int32(found.step), out_shardings=target.step.sharding
        )()
        return TrainState(step, found.params, found.opt_state)

    def _take_up(self, before: dict[str, Any]) -> None:
        """Checks a checkpoint's metadata, and keeps where its base was at the start."""
        check_same_run(self.workdir, before, self.metadata)
        self.before = before
        if "base" in before:
            self.metadata["base"] = before["base"]

    def _check(self, tally: Tally) -> None:
        """Describes the batches of bad steps; raises for on_nan="stop"."""
        with self.clock("step"):
            found = bad_steps(tally)
        for bad in found:
            where = ""
            if is_first():
                path = self._examples_of(bad)
                where = f", its batch is described in {path}" if path else ""
            if self.config.on_nan == "stop":
                latest = self.checkpoints.latest_step()
                good = f"step {latest}" if latest is not None else "none yet"
                raise TrainingError(
                    f"{what_is_bad(bad)} at step {bad['step']}{where}; the last good "
                    f"checkpoint is {good}. Lower optimizer.learning_rate, or set "
                    "config.on_nan=skip, and resume"
                )
            self._say(f"skipped step {bad['step']}: {what_is_bad(bad)}{where}")
        if found and int(tally.in_a_row) >= GIVE_UP:
            raise TrainingError(
                f"{int(tally.in_a_row)} steps in a row up to step {self.step} had to "
                "be skipped: the parameters give no finite loss any more; lower "
                "optimizer.learning_rate and resume"
            )

    def _examples_of(self, bad: dict[str, Any]) -> epath.Path | None:
        try:
            examples = self.inputs.examples(bad["step"] - 1)
            return write_bad_batch(self.workdir, bad, examples)
        except OSError as error:
            self._say(f"warning: the batch cannot be described ({error})")
            return None

    def _scalars(self, tally: Tally, metrics: StepMetrics) -> dict[str, float]:
        with self.clock("step"):
            scalars = {k: float(value) for k, value in metrics.scalars.items()}
            scalars |= self.trainable.report(jax.device_get(tally.sums))
        # The step just done had index step - 1.
        scalars["learning_rate"] = float(self.built.schedule(self.step - 1))
        scalars |= {
            f"learning_rate/{pattern}": float(pace(self.step - 1))
            for pattern, pace in self.built.paces.items()
        }
        if self.config.on_nan == "skip":
            scalars["skipped_steps"] = float(tally.bad)
        rate, left = self.progress.rate(self.step)
        shown = {k: scalars[k] for k in self.trainable.shown}
        self._say(self.progress.line(self.step, rate, left, shown))
        return scalars | {"steps_per_second": rate}

    def _validate(self) -> dict[str, float]:
        sums = None
        with self.clock("validate"):
            for batch in self.held_out:
                batch = place_batch(batch, self.mesh, self.rows)
                new = self.built.evaluate(self.state.params, batch)
                sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
            found = {}
            if sums is not None:
                found = self.trainable.report(jax.device_get(sums))
        self.result = {f"validation/{name}": value for name, value in found.items()}
        if found:
            shown = [f"{k} {found[k]:.3f}" for k in self.trainable.shown if k in found]
            self._say(f"step {self.step} held-out {' '.join(shown)}")
        return self.result

    def _write(self, row: dict[str, float]) -> None:
        seconds = self.clock.take()
        row |= {f"seconds/{phase}": spent for phase, spent in seconds.items()}
        row["goodput"] = self.goodput.add(seconds)
        if self.log:
            self.log.write(self.step, row)

    def _save(self, validated: dict[str, float] | None) -> None:
        with self.clock("save"):
            if self.log:
                self.log.sync()
            self.checkpoints.save(
                self.step,
                self.state.params,
                self.state.opt_state,
                {"seed": self.config.seed, "step": self.step},
                self.metadata,
                validated,
            )
        self.saved = self.step

    def _finish(self, stopped: bool) -> None:
        """Completes the last save, retrying once; prints the goodput."""
        with self.clock("save"):
            self.checkpoints.wait()
        if self.saved is not None and not self.checkpoints.all_saved():
            self._save(None)  # one retry: the storage may be back
            with self.clock("save"):
                self.checkpoints.wait()
        self.goodput.add(self.clock.take())
        self._say(self.goodput.summary())
        if self.saved is not None and not self.checkpoints.all_saved():
            latest = self.checkpoints.latest_step()
            raise TrainingError(
                f"the state of step {self.step} could not be saved: "
                f"{self.checkpoints.trouble}; the last good checkpoint is "
                f"{f'step {latest}' if latest is not None else 'none'}. Make room, or "
                "bring the storage back, and run again"
            )
        if stopped:
            self._say(f"stopped by a signal, step {self.step} is saved")

    def _say(self, text: str) -> None:
        if is_first():
            say(text)
