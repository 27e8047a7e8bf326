"""Losses: the answers' cross-entropy, and those of the read-outs.

Axes: B images, R queries, L answer tokens, V vocabulary, P patches, D width,
O object classes (background, peg, blocks).
Source: Semantic World Models train on the answer (and its eos) alone, each query
normalised over its own tokens; the dense, mention and place losses are ours (they bind
names to places before the questions do). Losses of parts of a batch, divided by the
totals of the whole, add up to the whole's loss.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.models import DenseTargets, MentionTargets, PlaceTargets, TrainBatch


class Scores(struct.PyTreeNode):
    """Sums over queries, so that shards and batches add up.

    Attributes:
      loss: float32[N], summed cross-entropy by query type.
      correct: float32[N], queries whose every answer token was the most likely.
      count: float32[N], queries of the type.
    """

    loss: Float[Array, " N"]
    correct: Float[Array, " N"]
    count: Float[Array, " N"]


def answer_loss(
    logits: Float[Array, "B R L V"],
    batch: TrainBatch,
    num_types: int,
    total: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Scores]:
    """Mean over queries of the mean cross-entropy of each query's answer tokens.

    Args:
      logits: of the answer positions, any float dtype.
      batch: answer_tokens and answer_mask say what and where; a query without any
        answer token is padding.
      num_types: N, number of query types for the scores.
      total: queries with an answer in the batch that this is a part of; None: this is
        all of it.

    Returns:
      The scalar loss and the sums by type.
    """
    logits = logits.astype(jnp.float32)
    mask = batch.answer_mask.astype(jnp.float32)
    token_loss = optax.softmax_cross_entropy_with_integer_labels(
        logits, batch.answer_tokens
    )
    length = mask.sum(-1)
    valid = (length > 0).astype(jnp.float32)
    query_loss = (token_loss * mask).sum(-1) / jnp.maximum(length, 1.0)
    right = (logits.argmax(-1) == batch.answer_tokens) | ~batch.answer_mask
    by_type = jax.nn.one_hot(batch.query_type, num_types) * valid[..., None]
    add = lambda x: jnp.einsum("brn,br->n", by_type, x)
    scores = Scores(
        loss=add(query_loss),
        correct=add(right.all(-1).astype(jnp.float32)),
        count=add(valid),
    )
    count = valid.sum() if total is None else total
    return (query_loss * valid).sum() / jnp.maximum(count, 1.0), scores


def dense_loss(
    class_logits: Float[Array, "B P O"],
    centres: Float[Array, "B P 2"],
    targets: DenseTargets,
    centre_weight: float,
    totals: tuple[Float[Array, ""], Float[Array, ""]] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Which object covers each patch (cross-entropy) and where its centre lies (L1).

    Covered patches are rare and weigh as much, in sum, as the bare ones.

    Args:
      centre_weight: of an image side that a centre is away, beside the cross-entropy.
      totals: covered and bare patches of the batch that this is a part of; None: this
        is all of it.

    Returns:
      The loss, and the accuracy over covered patches.
    """
    covered = (targets.object_id > 0).astype(jnp.float32)
    counts = covered.sum(), (1.0 - covered).sum()
    counts = counts if totals is None else totals
    shares, rest = covered / jnp.maximum(counts[0], 1.0), 1.0 - covered
    weight = 0.5 * shares + 0.5 * rest / jnp.maximum(counts[1], 1.0)
    loss = optax.softmax_cross_entropy_with_integer_labels(
        class_logits, targets.object_id
    )
    right = (class_logits.argmax(-1) == targets.object_id).astype(jnp.float32)
    distance = jnp.abs(centres - targets.centre).sum(-1)
    centre = centre_weight * (distance * shares).sum()
    return (loss * weight).sum() + centre, (right * shares).sum()


def mention_loss(
    centres: Float[Array, "B R T 2"],
    targets: MentionTargets,
    total: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Where the named objects lie: mean L1 and Euclidean distance, in image sides.

    A question about two objects is answered by comparing two places; read at the
    names, each is one look away from the answer instead of two.

    Returns:
      The loss (L1), and the error (Euclidean).
    """
    return _mean_distances(centres, targets.centre, targets.mask, total)


def place_loss(
    places: Float[Array, "B R 3 2"],
    targets: PlaceTargets,
    total: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Where what a query asks about will be: mean L1 and Euclidean distance in metres.

    Returns:
      The loss (L1), and the error (Euclidean).
    """
    return _mean_distances(places, targets.place, targets.mask, total)


def _mean_distances(points, targets, mask, total):
    """L1 and Euclidean distance where the mask is True; 0 if it is nowhere."""
    count = mask.sum() if total is None else total
    mean = lambda distance: (distance * mask).sum() / jnp.maximum(count, 1.0)
    away = points - targets
    # The second is measured only: a length has no gradient at 0.
    euclidean = jnp.linalg.norm(jax.lax.stop_gradient(away), axis=-1)
    return mean(jnp.abs(away).sum(-1)), mean(euclidean)
