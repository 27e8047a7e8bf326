"""One training step as a pure function of (state, batch).

Axes as in `losses`. The heads of pre-training live beside the model's own parameters
under the key `dense`, adapters under `lora`, so that the model's tree stays
big_vision's. Gradients and optimizer states exist for what moves only.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from swm_jax.models import ModelConfig, SemanticWorldModel, TrainBatch
from swm_jax.models.layers import rms_norm
from swm_jax.training.finetune import Finetune, join
from swm_jax.training.losses import (
    Scores,
    answer_loss,
    dense_loss,
    mention_loss,
    place_loss,
)
from swm_jax.training.sharding import replicated

DENSE_CLASSES = 22  # bare, peg, the 20 blocks of the catalogue
# Weights beside the dense loss: of image sides, and of metres.
MENTION_WEIGHT, PLACE_WEIGHT = 4.0, 1.0
FULL = Finetune()


@struct.dataclass
class TrainState:
    """Everything a step changes.

    Attributes:
      step: int32[], steps done.
      params: the model's tree, plus `dense` while pre-training and `lora`.
      opt_state: the optimizer's.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any


@struct.dataclass
class StepMetrics:
    """What a step measured; sums where batches must add up.

    Attributes:
      loss: of the answers.
      dense_loss, dense_accuracy: of the patches (0 without dense targets).
      mention_error: of the names (0 without mention targets), in image sides.
      place_error: of what is asked about (0 without place targets), in metres.
      gradient_norm: before clipping.
      scores: sums by query type.
    """

    loss: Float[Array, ""]
    dense_loss: Float[Array, ""]
    dense_accuracy: Float[Array, ""]
    mention_error: Float[Array, ""]
    place_error: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    scores: Scores


def init_dense_heads(config: ModelConfig) -> dict[str, Any]:
    """Linear read-outs of patches, of names and of answers.

    They start at zero, so that a stage begins without disturbing what the model
    has learnt: its first steps teach the read-outs alone.
    """

    def head(width, outputs):
        return {"kernel": jnp.zeros((width, outputs)), "bias": jnp.zeros(outputs)}

    return {
        "patch": head(config.vision_width, DENSE_CLASSES + 2),
        "mention": head(config.width, 2),
        "place": head(config.width, 6),
    }


def _losses(model, params, batch: TrainBatch, num_types: int, finetune: Finetune):
    outputs = model.apply(finetune.variables(params), batch)
    loss, scores = answer_loss(outputs.logits, batch, num_types)
    dense = accuracy = mention = place = jnp.zeros(())
    heads = params.get("dense")
    if heads is None:  # the answers alone
        return loss, dense, accuracy, mention, place, scores
    if batch.dense is not None:
        out = _read_out(heads["patch"], outputs.patch_features)
        dense, accuracy = dense_loss(
            out[..., :DENSE_CLASSES], jax.nn.sigmoid(out[..., -2:]), batch.dense
        )
    if batch.mentions is not None:
        states = rms_norm(0.0, outputs.question_features)
        out = _read_out(heads["mention"], states)
        mention = mention_loss(jax.nn.sigmoid(out), batch.mentions)
    if batch.places is not None:
        out = _read_out(heads["place"], outputs.answer_features)
        out = out.reshape(*out.shape[:-1], 3, 2)
        place = place_loss(out, batch.places)
    return loss, dense, accuracy, mention, place, scores


def _read_out(head, x):
    return x.astype(jnp.float32) @ head["kernel"] + head["bias"]


def make_train_step(
    model: SemanticWorldModel,
    optimizer: optax.GradientTransformation,
    num_types: int,
    dense_weight: float = 1.0,
    finetune: Finetune = FULL,
    shardings: TrainState | None = None,
    skip_bad: bool = False,
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, StepMetrics]]:
    """A jitted step; the state's buffers are donated.

    Args:
      model: what `params` belong to.
      optimizer: an optax transformation.
      num_types: query types told apart in the scores.
      dense_weight: weight of the dense loss where a batch has dense targets.
      finetune: what moves; the optimizer's state is of `finetune.split(params)[0]`.
      shardings: where the state lies and stays (from `state_shardings`); None leaves
        it to the compiler.
      skip_bad: a step whose loss or gradient norm is not finite changes neither
        parameters nor optimizer.
    """

    def loss_fn(moving, frozen, batch):
        params = join(moving, frozen)
        *parts, scores = _losses(model, params, batch, num_types, finetune)
        loss, dense, _, mention, place = parts
        dense = dense + MENTION_WEIGHT * mention + PLACE_WEIGHT * place
        return loss + dense_weight * dense, (*parts, scores)

    def train_step(state, batch):
        moving, frozen = finetune.split(state.params)
        gradients, (loss, dense, accuracy, mention, place, scores) = jax.grad(
            loss_fn, has_aux=True
        )(moving, frozen, batch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, moving)
        metrics = StepMetrics(
            loss=loss,
            dense_loss=dense,
            dense_accuracy=accuracy,
            mention_error=mention,
            place_error=place,
            gradient_norm=optax.global_norm(gradients),
            scores=scores,
        )
        params = join(optax.apply_updates(moving, updates), frozen)
        new = TrainState(state.step + 1, params, opt_state)
        return _unless_bad(metrics, new, state) if skip_bad else new, metrics

    if shardings is None:
        return jax.jit(train_step, donate_argnums=0)
    whole = replicated(shardings.step.mesh)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, whole))


def _unless_bad(metrics: StepMetrics, new: TrainState, old: TrainState) -> TrainState:
    good = jnp.isfinite(metrics.loss) & jnp.isfinite(metrics.gradient_norm)
    keep = lambda new, old: jnp.where(good, new, old)
    return jax.tree.map(keep, new, old).replace(step=new.step)


def make_eval_step(
    model: SemanticWorldModel, num_types: int, finetune: Finetune = FULL
) -> Callable[[Any, TrainBatch], Scores]:
    """A jitted function from (params, batch) to the scores by query type."""

    def evaluate(params, batch):
        return _losses(model, params, batch, num_types, finetune)[-1]

    return jax.jit(evaluate)
