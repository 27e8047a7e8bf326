"""The training loop: resume, step, log, validate, save.

A batch is a pure function of (seed, step), and a step of (state, batch), so a run
that was killed and resumed ends with the parameters of one that was not. The loop
looks at numbers from the device only where it logs, validates or saves; between those
the host runs ahead. docs/training.md tells what happens when something fails.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from data_pipelines.batches.query_types import QUERY_TYPES
from swm_jax.checkpoints import SAVE_TIMEOUT, KeepBest, RunCheckpoints
from swm_jax.models import SemanticWorldModel, Tokenizer, get_config
from swm_jax.training.bad_steps import (
    GIVE_UP,
    Tally,
    bad_steps,
    make_counter,
    what_is_bad,
    write_bad_batch,
)
from swm_jax.training.config_check import check_config
from swm_jax.training.distributed import StopSignal, is_first
from swm_jax.training.finetune import Finetune, count_parameters
from swm_jax.training.goodput import Goodput, PhaseClock
from swm_jax.training.inputs import (
    Inputs,
    action_metadata,
    data_position,
    place_batch,
    process_rows,
)
from swm_jax.training.metrics import MetricsLog, Progress
from swm_jax.training.optimizer import make_optimizer
from swm_jax.training.profiling import Profiler
from swm_jax.training.sharding import make_mesh
from swm_jax.training.state import abstract_state, initial_state
from swm_jax.training.step import (
    Scores,
    StepMetrics,
    TrainState,
    make_eval_step,
    make_train_step,
)

# Of the last step, beside the sums over all steps since the last row.
LOGGED = (
    "dense_loss",
    "dense_accuracy",
    "mention_error",
    "place_error",
    "gradient_norm",
)


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


def score_scalars(scores: Scores, prefix: str = "") -> dict[str, float]:
    """Mean loss and accuracy over all queries, and accuracy by type seen."""
    correct, count = np.asarray(scores.correct), np.asarray(scores.count)
    rates = {
        f"{prefix}accuracy/{name}": correct[i] / count[i]
        for i, name in enumerate(QUERY_TYPES)
        if count[i]
    }
    total = max(count.sum(), 1.0)
    return {
        f"{prefix}loss": float(np.asarray(scores.loss).sum() / total),
        f"{prefix}accuracy": float(correct.sum() / total),
        **rates,
    }


def train(
    config: ml_collections.ConfigDict,
    workdir: epath.PathLike,
    profile_steps: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Runs `config.steps` steps, resuming what `workdir` holds.

    On several hosts every process calls this, after `hosts.connect`.

    Args:
      config: an experiment config, for example `experiments/board_tiny.py`.
      workdir: logs, metrics and checkpoints; the same for all processes.
      profile_steps: steps done before and after a profiler trace.

    Returns:
      The last validation scalars.

    Raises:
      TrainingError: the loss is not finite, the workdir belongs to another model, or
        the last state could not be saved.
      CheckpointError: there are checkpoints, and none can be read.
      ValueError: the config holds what cannot be.
    """
    clock = PhaseClock()
    check_config(config)
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    best = config.get("keep_best")
    best = KeepBest(**best) if best else None
    with contextlib.ExitStack() as stack:
        timeout = config.get("save_timeout", SAVE_TIMEOUT)
        checkpoints = RunCheckpoints(workdir, config.keep_checkpoints, best, timeout)
        stack.enter_context(contextlib.closing(checkpoints))
        run = _Run(config, workdir, checkpoints, clock, profile_steps)
        stack.enter_context(contextlib.closing(run))
        run.steps()
        return run.result


class _Run:
    """One start of a run: what the loop holds, and what it does between steps."""

    def __init__(self, config, workdir, checkpoints, clock, profile_steps):
        self.config, self.workdir = config, workdir
        self.checkpoints, self.clock = checkpoints, clock
        self.on_nan = config.get("on_nan", "stop")
        overrides = {"layout": config.model.layout, **config.model.overrides}
        model_config = get_config(config.model.variant, **overrides)
        tokenizer = Tokenizer.load(config.model.tokenizer)
        tokenizer.check(model_config)
        model = SemanticWorldModel(model_config)
        self.mesh = make_mesh(config.mesh)
        finetune = Finetune.from_config(config)
        optimizer, self.schedule, self.paces = _optimizer(config, finetune)
        self.metadata = _metadata(config, overrides, finetune)
        target = abstract_state(config, model_config, optimizer, self.mesh)
        self.state = self._resume(target)
        if self.state is None:
            self.state = initial_state(config, model_config, optimizer, target)
        self.step = int(self.state.step)
        if finetune != Finetune():
            moving, total = finetune.split(target.params)[0], target.params
            self._say(
                f"{count_parameters(moving):,} of {count_parameters(total):,} "
                "parameters move"
            )
        self.rows = process_rows(self.mesh, config.data.images)
        self.inputs = Inputs(config, model_config, tokenizer, self.rows)
        self.stream = self.inputs.stream(self.step)
        self.held_out = self.inputs.validation()
        self.train_step = make_train_step(
            model,
            optimizer,
            len(QUERY_TYPES),
            config.dense_weight,
            finetune,
            shardings=jax.tree.map(lambda leaf: leaf.sharding, target),
            accumulate=config.get("accumulate", 1),
            skip_bad=self.on_nan == "skip",
        )
        self.eval_step = make_eval_step(model, len(QUERY_TYPES), finetune, self.mesh)
        self.count = make_counter(self.mesh)
        self.log = MetricsLog(workdir, self.step) if is_first() else None
        kept = self.log.kept if self.log else ()
        self.goodput = Goodput(workdir, kept, clock.began, writes=is_first())
        self.progress = Progress(self.step, config.steps, config.data.images)
        self.profiler = Profiler(workdir, profile_steps if is_first() else None)
        self.stop = StopSignal()
        self.result, self.saved = {}, None
        clock.charge("start")

    def steps(self) -> None:
        """Runs to the last step, or until all are told to stop."""
        config, tally = self.config, Tally.empty(len(QUERY_TYPES))
        first, anew, stopped = self.step, False, False
        while self.step < config.steps and not stopped:
            self.profiler.before(self.step)
            with self.clock("data"):
                batch = place_batch(next(self.stream), self.mesh, self.rows)
            with self.clock("compile" if self.step == first else "step"):
                self.state, metrics = self.train_step(self.state, batch)
                self.step += 1
                tally, anew = self.count(tally, metrics, self.step, anew), False
            trace = self.profiler.after(self.step, self.state)
            if trace:
                self._say(f"profiler trace up to step {self.step} is in {trace}")
            stopped = self.stop.reached(self.step)
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
            if row:  # before the save: what a checkpoint holds is in the log
                self._write(row)
            if saves:
                self._save(self.result if validates else None)
            else:
                self.checkpoints.poll()
        self._finish(stopped)

    def close(self) -> None:
        """Ends traces and logs, gives signals back."""
        self.profiler.close()
        self.stop.close()
        if self.log:
            self.log.close()

    def _resume(self, target: TrainState) -> TrainState | None:
        found = self.checkpoints.restore_newest(
            target.params, target.opt_state, self._check_same_run
        )
        if found is None:
            return None
        self._say(f"resumed {self.workdir} at step {found.step}")
        step = jax.jit(
            lambda: jnp.int32(found.step), out_shardings=target.step.sharding
        )()
        return TrainState(step, found.params, found.opt_state)

    def _check_same_run(self, before: dict[str, Any]) -> None:
        """A workdir goes on with the model, stage and moving parts it began with."""
        for key in ("stage", "model", "finetune"):
            if before.get(key) != self.metadata.get(key):
                raise TrainingError(
                    f"{self.workdir} holds a run of another config: its {key} is "
                    f"{before.get(key)}, this config's {self.metadata.get(key)}; use "
                    "another --workdir"
                )

    def _check(self, tally: Tally) -> None:
        """Writes down the batches of bad steps; stops, or has skipped them."""
        with self.clock("step"):
            found = bad_steps(tally)
        for bad in found:
            where = ""
            if is_first():
                path = self._examples_of(bad)
                where = f", its batch is described in {path}" if path else ""
            if self.on_nan == "stop":
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
            scalars = score_scalars(tally.scores) | {
                name: float(getattr(metrics, name)) for name in LOGGED
            }
        scalars["learning_rate"] = float(self.schedule(self.step - 1))
        scalars |= {
            f"learning_rate/{pattern}": float(pace(self.step - 1))
            for pattern, pace in self.paces.items()
        }
        if self.on_nan == "skip":
            scalars["skipped_steps"] = float(tally.bad)
        rate, left = self.progress.rate(self.step)
        shown = {k: scalars[k] for k in ("loss", "accuracy", "place_error")}
        self._say(self.progress.line(self.step, rate, left, shown))
        return scalars | {"steps_per_second": rate}

    def _validate(self) -> dict[str, float]:
        scores = None
        with self.clock("validate"):
            for batch in self.held_out:
                batch = place_batch(batch, self.mesh, self.rows)
                new = self.eval_step(self.state.params, batch)
                scores = new if scores is None else jax.tree.map(jnp.add, scores, new)
            self.result = score_scalars(scores, "validation/") if self.held_out else {}
        if self.result:
            self._say(
                f"step {self.step} held-out loss {self.result['validation/loss']:.3f} "
                f"accuracy {self.result['validation/accuracy']:.3f}"
            )
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
                data_position(self.config, self.step),
                self.metadata,
                validated,
            )
        self.saved = self.step

    def _finish(self, stopped: bool) -> None:
        """Makes sure that the state is saved; tells where the time went."""
        with self.clock("save"):
            self.checkpoints.wait()
        if self.saved is not None and not self.checkpoints.all_saved():
            self._save(None)  # once more: the storage may be back
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
            print(text, flush=True)


def _metadata(config, overrides: dict[str, Any], finetune: Finetune) -> dict[str, Any]:
    metadata = {
        "stage": config.stage,
        "model": {
            "variant": config.model.variant,
            "overrides": overrides,
            "tokenizer": config.model.tokenizer,
        },
        "config": config.to_dict(),
    }
    if actions := action_metadata(config):
        metadata["actions"] = actions
    if finetune != Finetune():
        metadata["finetune"] = finetune.describe()
    return metadata


def _optimizer(config, finetune: Finetune):
    """The optimizer, the learning rate in general, and that of every part."""
    steps, pace = config.steps, None
    if finetune.schedules:
        pace = finetune.scale_by_pace(config.optimizer, steps)
    paces = finetune.pace(config.optimizer, steps)
    return *make_optimizer(config.optimizer, steps, pace), paces
