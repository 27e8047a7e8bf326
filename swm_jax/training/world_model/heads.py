"""Linear read-outs that help training: a table of what each reads and learns.

They bind names to places before questions do: of patches (which object, where), of the
names in a question (where is it in the image), of its answer (where will it be).

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
from swm_jax.models.swm import Outputs
from swm_jax.records import NonNegative
from swm_jax.training.world_model.losses import dense_loss, mention_loss, place_loss

PATCH_CLASSES = 22  # bare, peg, the 20 blocks of the catalogue


@dataclasses.dataclass(frozen=True)
class HeadWeights:
    """Weights of the read-outs' losses, by name of the head.

    Attributes:
      patch: of the object in a patch.
      centre: of its centre, within the patch's loss.
      mention: of where named objects lie, per image side.
      place: of where what is asked about will be, per metre.
    """

    patch: NonNegative = 1.0
    centre: NonNegative = 4.0
    mention: NonNegative = 4.0
    place: NonNegative = 1.0


@dataclasses.dataclass(frozen=True)
class Head:
    """A linear read-out with a loss of its own.

    Attributes:
      name: of its parameters and of its weight in `HeadWeights`.
      features: what it reads of the model's outputs.
      input_width: field of `ModelConfig` with the features' width.
      width: numbers it gives for each feature.
      targets: field of `TrainBatch`; where that is None there is no loss.
      totals: targets -> what its loss is divided by over a whole batch.
      loss: (outputs, targets, totals, weights) -> the values of `measures`.
      measures: names of what it measures, its loss first.
    """

    name: str
    features: Callable[[Outputs], Float[Array, "... D"]]
    input_width: str
    width: int
    targets: str
    totals: Callable[[Any], Any]
    loss: Callable[..., tuple[Float[Array, ""], ...]]
    measures: tuple[str, ...]


def _question_features(outputs: Outputs) -> Float[Array, "... D"]:
    assert outputs.question_features is not None  # training asks for them
    return rms_norm(0.0, outputs.question_features)


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
        width=PATCH_CLASSES + 2,
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
        width=2,
        targets="mentions",
        totals=lambda t: _count(t.mask),
        loss=_mention_loss,
        measures=("mention_loss", "mention_error_sides"),
    ),
    Head(
        name="place",
        features=lambda outputs: outputs.answer_features,
        input_width="width",
        width=6,  # x, y of two blocks and of the peg
        targets="places",
        totals=lambda t: _count(t.mask),
        loss=_place_loss,
        measures=("place_loss", "place_error_mm"),
    ),
)


def init_heads(config: ModelConfig) -> dict[str, Any]:
    """Kernels and biases of zero.

    A stage begins without disturbing what the model has learnt: its first steps teach
    the read-outs alone.
    """
    return {
        head.name: {
            "kernel": jnp.zeros((getattr(config, head.input_width), head.width)),
            "bias": jnp.zeros(head.width),
        }
        for head in HEADS
    }


def head_totals(batch: TrainBatch) -> dict[str, Any]:
    """By name, what losses are divided by; only of heads with targets in the batch."""
    targets = {head: getattr(batch, head.targets) for head in HEADS}
    return {h.name: h.totals(t) for h, t in targets.items() if t is not None}


def head_losses(
    params: dict[str, Any] | None,
    outputs: Outputs,
    batch: TrainBatch,
    totals: dict[str, Any],
    weights: HeadWeights,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weighted sum of the losses, and all measures; 0 where there are no targets.

    Args:
      params: of all heads; None: none is trained.
      outputs: of the model for the batch.
      batch: with targets.
      totals: from `head_totals` of the whole batch.
      weights: of the losses.
    """
    loss, measured = jnp.zeros(()), {}
    for head in HEADS:
        targets, values = getattr(batch, head.targets), ()
        if params is not None and targets is not None:
            own = params[head.name]
            features = head.features(outputs).astype(jnp.float32)
            out = features @ own["kernel"] + own["bias"]
            values = head.loss(out, targets, totals[head.name], weights)
        values = values or (jnp.zeros(()),) * len(head.measures)
        measured |= dict(zip(head.measures, values))
        loss = loss + getattr(weights, head.name) * values[0]
    return loss, measured
