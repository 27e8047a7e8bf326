"""The training loop: resume, step, log, validate, save.

A batch is a pure function of (seed, step), and a step of (state, batch), so a run
that was killed and resumed ends with the parameters of one that was not.
"""

import contextlib
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from swm_jax.checkpoints import RunCheckpoints, check_tree, load_model
from swm_jax.models import ModelConfig, SemanticWorldModel, Tokenizer, get_config
from swm_jax.training.finetune import Finetune, count_parameters, model_params
from swm_jax.training.inputs import (
    QUERY_TYPES,
    action_metadata,
    data_position,
    make_stream,
    validation_batches,
)
from swm_jax.training.metrics import MetricsLog, Progress
from swm_jax.training.optimizer import make_optimizer
from swm_jax.training.sharding import (
    make_mesh,
    on_every_device,
    replicated,
    shard_batch,
)
from swm_jax.training.step import (
    Scores,
    TrainState,
    init_dense_heads,
    make_eval_step,
    make_train_step,
)


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


def fresh_params(
    config: ml_collections.ConfigDict, model_config: ModelConfig
) -> dict[str, Any]:
    """Random parameters; dense heads and adapters beside the model's, if trained."""
    key = jax.random.key(config.seed)
    params = dict(SemanticWorldModel(model_config).init_params(key))
    if config.dense_weight:
        params["dense"] = init_dense_heads(model_config)
    lora_key = jax.random.fold_in(key, 2)
    return Finetune.from_config(config).with_adapters(lora_key, params)


def init_params(
    config: ml_collections.ConfigDict, model_config: ModelConfig
) -> dict[str, Any]:
    """Fresh parameters, the model's own replaced by those of `init_from`.

    Raises:
      CheckpointError: `init_from` is no checkpoint, or of another model.
    """
    params = jax.jit(lambda: fresh_params(config, model_config))()
    if config.init_from:
        loaded = load_model(config.init_from, param_dtype="float32")
        check_tree(model_params(params), loaded.params, config.init_from)
        params.update(loaded.params)
    return params


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


def _add(left: Scores | None, right: Scores) -> Scores:
    return right if left is None else jax.tree.map(jnp.add, left, right)


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Runs `config.steps` steps, resuming what `workdir` holds.

    Args:
      config: an experiment config, for example `experiments/board_tiny.py`.
      workdir: logs, metrics and checkpoints.

    Returns:
      The last validation scalars.

    Raises:
      TrainingError: the loss is not finite, or the workdir belongs to another model.
    """
    Path(workdir).mkdir(parents=True, exist_ok=True)
    with contextlib.closing(
        RunCheckpoints(workdir, keep=config.keep_checkpoints)
    ) as checkpoints:
        return _train(config, workdir, checkpoints)


def _train(config, workdir, checkpoints: RunCheckpoints) -> dict[str, float]:
    overrides = {"layout": config.model.layout, **config.model.overrides}
    model_config = get_config(config.model.variant, **overrides)
    tokenizer = Tokenizer.load(config.model.tokenizer)
    tokenizer.check(model_config)
    model = SemanticWorldModel(model_config)
    mesh = make_mesh(config.mesh)
    finetune = Finetune.from_config(config)
    optimizer, schedule, paces = _optimizer(config, finetune)
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
    step = checkpoints.latest_step() or 0
    _check_same_run(checkpoints, step, metadata, workdir)

    if step:
        shapes = jax.eval_shape(lambda: fresh_params(config, model_config))
        moving = finetune.split(shapes)[0]
        shapes = (shapes, jax.eval_shape(optimizer.init, moving))
        params, opt_state, _ = checkpoints.restore(step, *on_every_device(shapes, mesh))
        print(f"resumed {workdir} at step {step}", flush=True)
    else:
        params = jax.device_put(init_params(config, model_config), replicated(mesh))
        moving = finetune.split(params)[0]
        opt_state = jax.jit(optimizer.init)(moving)
    if finetune != Finetune():
        print(
            f"{count_parameters(moving):,} of {count_parameters(params):,} parameters "
            "move",
            flush=True,
        )
    state = TrainState(jnp.asarray(step), params, opt_state)
    stream = make_stream(config, model_config, tokenizer, start_step=step)
    held_out = validation_batches(config, model_config, tokenizer)
    train_step = make_train_step(
        model, optimizer, len(QUERY_TYPES), config.dense_weight, finetune
    )
    eval_step = make_eval_step(model, len(QUERY_TYPES), finetune)
    log = MetricsLog(workdir, resume_step=step)
    progress = Progress(step, config.steps, config.data.images)
    stop = _StopOnSignal()

    def save(at: int) -> None:
        checkpoints.save(
            at, state.params, state.opt_state, data_position(config, at), metadata
        )

    def validate() -> dict[str, float]:
        scores = None
        for batch in held_out:
            batch = shard_batch(batch, mesh)
            scores = _add(scores, eval_step(state.params, batch))
        return score_scalars(scores, "validation/") if scores is not None else {}

    result, since_log = {}, None
    try:
        while step < config.steps:
            state, metrics = train_step(state, shard_batch(next(stream), mesh))
            step += 1
            since_log, row = _add(since_log, metrics.scores), {}
            if step % config.log_every == 0 or step == config.steps:
                scalars = score_scalars(since_log) | {
                    "dense_loss": float(metrics.dense_loss),
                    "dense_accuracy": float(metrics.dense_accuracy),
                    "mention_error": float(metrics.mention_error),
                    "place_error": float(metrics.place_error),
                    "gradient_norm": float(metrics.gradient_norm),
                    "learning_rate": float(schedule(step - 1)),
                }
                scalars |= {
                    f"learning_rate/{pattern}": float(pace(step - 1))
                    for pattern, pace in paces.items()
                }
                if not np.isfinite([scalars["loss"], scalars["gradient_norm"]]).all():
                    raise TrainingError(
                        f"loss {scalars['loss']} and gradient norm "
                        f"{scalars['gradient_norm']} at step {step}: the last good "
                        f"checkpoint is step {checkpoints.latest_step()}; lower "
                        "optimizer.learning_rate and resume"
                    )
                rate, left = progress.rate(step)
                shown = {k: scalars[k] for k in ("loss", "accuracy", "place_error")}
                print(progress.line(step, rate, left, shown), flush=True)
                row |= scalars | {"steps_per_second": rate}
                since_log = None
            if step % config.validate_every == 0 or step == config.steps:
                result = validate()
                row |= result
                if result:
                    print(
                        f"step {step} held-out "
                        f"loss {result['validation/loss']:.3f} "
                        f"accuracy {result['validation/accuracy']:.3f}",
                        flush=True,
                    )
            if row:  # before the save: what a checkpoint holds is in the log
                log.write(step, row)
            end = stop.requested or step == config.steps
            if end or step % config.checkpoint_every == 0:
                save(step)
            if stop.requested:
                print(f"stopped by a signal, step {step} is saved", flush=True)
                break
    finally:
        log.close()
    return result


def _optimizer(config, finetune: Finetune):
    """The optimizer, the learning rate in general, and that of every part."""
    steps, pace = config.steps, None
    if finetune.schedules:
        pace = finetune.scale_by_pace(config.optimizer, steps)
    paces = finetune.pace(config.optimizer, steps)
    return *make_optimizer(config.optimizer, steps, pace), paces


def _check_same_run(checkpoints, step, metadata, workdir) -> None:
    """A workdir goes on with the model, stage and moving parts it began with."""
    if not step:
        return
    before = checkpoints.metadata(step)
    for key in ("stage", "model", "finetune"):
        if before.get(key) != metadata.get(key):
            raise TrainingError(
                f"{workdir} holds a run of another config: its {key} is "
                f"{before.get(key)}, this config's {metadata.get(key)}; use another "
                "--workdir"
            )


class _StopOnSignal:
    """Remembers SIGTERM, so that the loop can save before it ends."""

    def __init__(self):
        self.requested = False
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, signum, frame):
        self.requested = True
