"""Auxiliary linear heads, as a table of features, targets and losses.

They ground object names in positions earlier in training than answers do: heads on
patches (object and its centre), on object names in a question (image position), on the
answer (future position) and, in models with object tokens, on the future tokens (how
far each object moves and turns).

Axes: B images, P patches, R queries, T question tokens, D width of the features.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.models import ModelConfig, TrainBatch
from swm_jax.models.backbones.layers import rms_norm
from swm_jax.models.types import Outputs
from swm_jax.records import NonNegative
from swm_jax.training.world_model.losses import dense_loss, mention_loss, place_loss
from swm_jax.training.world_model.object_losses import future_loss, future_totals

PATCH_CLASSES = 22  # bare, peg, the 20 blocks of the catalogue


@dataclasses.dataclass(frozen=True)
class HeadWeights:
    """Loss weights of the heads, by name.

    Attributes:
      patch: object class and centre of each patch.
      centre: centre within the patch loss, per image side.
      mention: image position of named objects, per image side.
      place: future position of the objects asked about, per metre.
      future: displacement of every object, per 2 cm.
      objects: the model's own read-outs of where the objects are, per decimetre.
    """

    patch: NonNegative = 1.0
    centre: NonNegative = 4.0
    mention: NonNegative = 4.0
    place: NonNegative = 1.0
    future: NonNegative = 2.0
    objects: NonNegative = 1.0


@dataclasses.dataclass(frozen=True)
class Head:
    """A linear head with its loss.

    Attributes:
      name: of its parameters and of its weight in `HeadWeights`.
      features: model outputs -> input features.
      input_width: field of `ModelConfig` with the features' width.
      width: config -> output width; 0 where the model has no such features.
      targets: field of `TrainBatch`; None in a batch skips the loss.
      totals: targets -> denominators of the loss, over a whole batch.
      loss: (head outputs, targets, totals, weights) -> values of `measures`.
      measures: names of its metrics, the loss first.
    """

    name: str
    features: Callable[[Outputs], Float[Array, "... D"]]
    input_width: str
    width: Callable[[ModelConfig], int]
    targets: str
    totals: Callable[[Any], Any]
    loss: Callable[..., tuple[Float[Array, ""], ...]]
    measures: tuple[str, ...]


def _question_features(outputs: Outputs) -> Float[Array, "... D"]:
    assert outputs.question_features is not None  # given if the batch has mentions
    # Middle states of the residual stream are not normalised; 0.0 is a scale of one.
    return rms_norm(0.0, outputs.question_features)


def _future_features(outputs: Outputs) -> Float[Array, "... D"]:
    assert outputs.future_features is not None  # of models with object tokens
    return outputs.future_features


def _patch_loss(out, targets, totals, weights):
    classes, centres = out[..., :PATCH_CLASSES], jax.nn.sigmoid(out[..., -2:])
    return dense_loss(classes, centres, targets, weights.centre, totals)


def _mention_loss(out, targets, totals, weights):
    return mention_loss(jax.nn.sigmoid(out), targets, totals)


def _place_loss(out, targets, totals, weights):
    loss, error = place_loss(out.reshape(*out.shape[:-1], 3, 2), targets, totals)
    return loss, 1000.0 * error


def _count(mask) -> Float[Array, ""]:
    return jnp.sum(mask, dtype=jnp.float32)


HEADS = (
    Head(
        name="patch",
        features=lambda outputs: outputs.patch_features,
        input_width="vision_width",
        width=lambda c: PATCH_CLASSES + 2,
        targets="dense",
        # Patches that show an object, and others.
        totals=lambda t: (_count(t.object_id > 0), _count(t.object_id == 0)),
        loss=_patch_loss,
        measures=("dense_loss", "dense_accuracy"),
    ),
    Head(
        name="mention",
        features=_question_features,
        input_width="width",
        width=lambda c: 2,
        targets="mentions",
        totals=lambda t: _count(t.mask),
        loss=_mention_loss,
        measures=("mention_loss", "mention_error_sides"),
    ),
    Head(
        name="place",
        features=lambda outputs: outputs.answer_features,
        input_width="width",
        width=lambda c: 6,  # x, y of two blocks and of the peg
        targets="places",
        totals=lambda t: _count(t.mask),
        loss=_place_loss,
        measures=("place_loss", "place_error_mm"),
    ),
    Head(
        name="future",
        features=_future_features,
        input_width="width",
        width=lambda c: c.object_axes + 1 if c.objects else 0,
        targets="futures",
        totals=future_totals,
        loss=lambda out, targets, totals, weights: future_loss(out, targets, totals),
        measures=("future_loss", "moved_error_mm", "unmoved_error_mm", "moved_mm"),
    ),
)


def init_heads(config: ModelConfig) -> dict[str, Any]:
    """Zero kernels and biases.

    With a zero kernel no gradient reaches the model at first: the first steps train the
    heads and do not disturb pre-trained features.
    """
    return {
        head.name: {
            "kernel": jnp.zeros((getattr(config, head.input_width), width)),
            "bias": jnp.zeros(width),
        }
        for head in HEADS
        if (width := head.width(config))
    }


def head_totals(batch: TrainBatch) -> dict[str, Any]:
    """Loss denominators by head, for heads with targets in the batch."""
    targets = {head: getattr(batch, head.targets) for head in HEADS}
    return {h.name: h.totals(t) for h, t in targets.items() if t is not None}


def head_losses(
    params: dict[str, Any] | None,
    outputs: Outputs,
    batch: TrainBatch,
    totals: dict[str, Any],
    weights: HeadWeights,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weighted sum of the heads' losses, and all measures; 0 without targets.

    Args:
      params: of all heads; None without heads.
      outputs: of the model for the batch.
      batch: with targets.
      totals: from `head_totals` of the whole batch.
      weights: of the losses.
    """
    loss, measured = jnp.zeros(()), {}
    for head in HEADS:
        targets, values = getattr(batch, head.targets), ()
        if params is not None and targets is not None and head.name in params:
            own = params[head.name]
            features = head.features(outputs).astype(jnp.float32)
            out = features @ own["kernel"] + own["bias"]
            values = head.loss(out, targets, totals[head.name], weights)
        values = values or (jnp.zeros(()),) * len(head.measures)
        measured |= dict(zip(head.measures, values))
        loss = loss + getattr(weights, head.name) * values[0]
    return loss, measured
