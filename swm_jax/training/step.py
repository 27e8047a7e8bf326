"""One training step as a pure function of (state, batch).

Axes as in `losses`. The heads of pre-training live beside the model's own parameters
under the key `dense`, adapters under `lora`, so that the model's tree stays
big_vision's. Gradients and optimizer states exist for what moves only.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from swm_jax.models import ModelConfig, SemanticWorldModel, TrainBatch
from swm_jax.models.backbones.layers import rms_norm
from swm_jax.models.logical_axes import constrain
from swm_jax.training.finetune import Finetune, join
from swm_jax.training.losses import (
    Scores,
    Totals,
    answer_loss,
    dense_loss,
    mention_loss,
    place_loss,
    totals_of,
)
from swm_jax.training.sharding import batch_shards, replicated

DENSE_CLASSES = 22  # bare, peg, the 20 blocks of the catalogue
# Weights beside the dense loss: of image sides, and of metres.
MENTION_WEIGHT, PLACE_WEIGHT = 4.0, 1.0
FULL = Finetune()
MEASURES = ("loss", "dense_loss", "mention_loss", "place_loss", "gradient_norm")


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
      mention_loss, mention_error_sides: where named objects lie (0 without mention
        targets), in image sides: |dx| + |dy|, and the distance.
      place_loss, place_error_mm: where what is asked about will be (0 without place
        targets): |dx| + |dy| in metres, and the distance in millimetres.
      gradient_norm: before clipping.
      scores: sums by query type.
    """

    loss: Float[Array, ""]
    dense_loss: Float[Array, ""]
    dense_accuracy: Float[Array, ""]
    mention_loss: Float[Array, ""]
    mention_error_sides: Float[Array, ""]
    place_loss: Float[Array, ""]
    place_error_mm: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    scores: Scores

    def measures(self) -> Float[Array, " n"]:
        """The scalars named in `MEASURES`; one that is not finite spoils the step."""
        return jnp.stack([getattr(self, name) for name in MEASURES])


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


@struct.dataclass
class _Losses:
    """Sums over parts of a batch, each divided by totals of the whole."""

    answer: Any
    dense: Any
    accuracy: Any
    mention: Any
    mention_error: Any
    place: Any
    place_error: Any
    scores: Scores


def _losses(
    model, params, batch: TrainBatch, num_types: int, finetune: Finetune, totals: Totals
) -> _Losses:
    outputs = model.apply(finetune.variables(params), batch)
    loss, scores = answer_loss(outputs.logits, batch, num_types, totals)
    dense = accuracy = mention = place = jnp.zeros(())
    mention_error = place_error = jnp.zeros(())
    heads = params.get("dense")
    if heads is None:  # the answers alone
        return _Losses(loss, *[dense] * 6, scores)
    if batch.dense is not None:
        out = _read_out(heads["patch"], outputs.patch_features)
        dense, accuracy = dense_loss(
            out[..., :DENSE_CLASSES],
            jax.nn.sigmoid(out[..., -2:]),
            batch.dense,
            totals,
        )
    if batch.mentions is not None:
        states = rms_norm(0.0, outputs.question_features)
        out = _read_out(heads["mention"], states)
        centres = jax.nn.sigmoid(out)
        mention, mention_error = mention_loss(centres, batch.mentions, totals)
    if batch.places is not None:
        out = _read_out(heads["place"], outputs.answer_features)
        out = out.reshape(*out.shape[:-1], 3, 2)
        place, place_error = place_loss(out, batch.places, totals)
    return _Losses(
        loss, dense, accuracy, mention, mention_error, place, place_error, scores
    )


def _read_out(head, x):
    return x.astype(jnp.float32) @ head["kernel"] + head["bias"]


def make_train_step(
    model: SemanticWorldModel,
    optimizer: optax.GradientTransformation,
    num_types: int,
    dense_weight: float = 1.0,
    finetune: Finetune = FULL,
    shardings: TrainState | None = None,
    accumulate: int = 1,
    skip_bad: bool = False,
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, StepMetrics]]:
    """A jitted step; the state's buffers are donated.

    Args:
      model: what `params` belong to.
      optimizer: an optax transformation.
      num_types: query types told apart in the scores.
      dense_weight: weight of the dense loss where a batch has dense targets.
      finetune: what moves; the optimizer's state is of `finetune.split(params)[0]`.
      shardings: where the state lies and stays (from `state_shardings`); None: on
        one device.
      accumulate: parts of a batch that run one after the other, so that activations
        of one part exist at a time; loss and gradient are the whole batch's.
      skip_bad: a step in whose losses or gradient norm one is not finite changes
        neither parameters nor optimizer.

    Raises (when called):
      ValueError: a batch that does not divide by the parts, or they by the mesh.
    """
    mesh = None if shardings is None else shardings.step.mesh

    def loss_fn(moving, frozen, batch, totals):
        params = join(moving, frozen)
        out = _losses(model, params, batch, num_types, finetune, totals)
        beside = out.dense + MENTION_WEIGHT * out.mention + PLACE_WEIGHT * out.place
        return out.answer + dense_weight * beside, out

    def keep(gradients):
        """Gradients, and their sums, lie where the parameters do."""
        if shardings is None:
            return gradients
        place = finetune.split(shardings.params)[0]
        return jax.lax.with_sharding_constraint(gradients, place)

    def gradients_of(moving, frozen, batch):
        totals = totals_of(batch)
        gradient = jax.grad(loss_fn, has_aux=True)
        if accumulate == 1:
            gradients, out = gradient(moving, frozen, batch, totals)
            return keep(gradients), out

        def add(sums, part):
            gradients, out = gradient(moving, frozen, part, totals)
            sums = jax.tree.map(jnp.add, sums, (keep(gradients), out))
            return sums, None

        parts = split_batch(batch, accumulate, mesh)
        shapes = jax.eval_shape(
            gradient, moving, frozen, jax.tree.map(lambda x: x[0], parts), totals
        )
        gradients, out = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.scan(add, (keep(gradients), out), parts)[0]

    def train_step(state, batch):
        with _on(mesh):
            moving, frozen = finetune.split(state.params)
            gradients, out = gradients_of(moving, frozen, batch)
            updates, opt_state = optimizer.update(gradients, state.opt_state, moving)
            metrics = StepMetrics(
                loss=out.answer,
                dense_loss=out.dense,
                dense_accuracy=out.accuracy,
                mention_loss=out.mention,
                mention_error_sides=out.mention_error,
                place_loss=out.place,
                place_error_mm=1000.0 * out.place_error,
                gradient_norm=optax.global_norm(gradients),
                scores=out.scores,
            )
            params = join(optax.apply_updates(moving, updates), frozen)
            new = TrainState(state.step + 1, params, opt_state)
            return _unless_bad(metrics, new, state) if skip_bad else new, metrics

    if shardings is None:
        return jax.jit(train_step, donate_argnums=0)
    places = (shardings, replicated(mesh))
    return jax.jit(train_step, donate_argnums=0, out_shardings=places)


def _unless_bad(metrics: StepMetrics, new: TrainState, old: TrainState) -> TrainState:
    good = jnp.isfinite(metrics.measures()).all()
    keep = lambda new, old: jnp.where(good, new, old)
    return jax.tree.map(keep, new, old).replace(step=new.step)


def split_batch(batch: TrainBatch, parts: int, mesh: Mesh | None = None) -> TrainBatch:
    """[B, ...] as [parts, B / parts, ...], every device keeping its own images.

    Raises:
      ValueError: images that do not divide by the parts, or they by the mesh.
    """
    images = batch.image.shape[0]
    shards = 1 if mesh is None else batch_shards(mesh)
    if parts < 1 or images % (parts * shards):
        raise ValueError(
            f"a batch of {images} images does not divide into accumulate={parts} "
            f"parts on the mesh's data and fsdp axes of {shards} devices"
        )
    # Neighbours lie on one device, so that each of them gives some to every part.
    split = lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)
    return jax.tree.map(lambda x: constrain(split(x), None, "batch"), batch)


def make_eval_step(
    model: SemanticWorldModel,
    num_types: int,
    finetune: Finetune = FULL,
    mesh: Mesh | None = None,
) -> Callable[[Any, TrainBatch], Scores]:
    """A jitted function from (params, batch) to the scores by query type."""

    def evaluate(params, batch):
        with _on(mesh):
            totals = totals_of(batch)
            return _losses(model, params, batch, num_types, finetune, totals).scores

    return jax.jit(evaluate)


def _on(mesh: Mesh | None):
    """The context in which `constrain` finds the mesh."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
