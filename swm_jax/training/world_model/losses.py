"""Losses: cross-entropy of the answers, and losses of the auxiliary heads.

Axes: B images, R queries, L answer tokens, V vocabulary, P patches, D width,
O object classes (background, peg, blocks).
Source: Semantic World Models: cross-entropy on the answer tokens and eos only,
averaged per query; the dense, mention and place losses are our additions. Losses of
parts of a batch, divided by the totals of the whole batch, add up to its loss.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.models import DenseTargets, MentionTargets, PlaceTargets, TrainBatch


class Scores(struct.PyTreeNode):
    """Sums over queries by type; additive over shards and batches.

    Attributes:
      loss: float32[N], summed cross-entropy.
      correct: float32[N], number of queries with all answer tokens predicted (argmax).
      count: float32[N], number of queries.
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
      batch: with answer_tokens and answer_mask; queries without answer tokens are
        padding.
      num_types: N, number of query types for the scores.
      total: from `answer_total` of the whole batch, if `batch` is a part; None: `batch`
        is whole.

    Returns:
      The scalar loss and the sums by type.
    """
    logits = logits.astype(jnp.float32)
    mask = batch.answer_mask.astype(jnp.float32)
    token_loss = optax.softmax_cross_entropy_with_integer_labels(
        logits, batch.answer_tokens
    )
    length = mask.sum(-1)  # 0 for padding queries, hence the maximum below
    valid = _query_weights(batch)
    query_loss = (token_loss * mask).sum(-1) / jnp.maximum(length, 1.0)
    # Padding tokens count as right, so that `all` is over real tokens.
    right = (logits.argmax(-1) == batch.answer_tokens) | ~batch.answer_mask
    by_type = jax.nn.one_hot(batch.query_type, num_types) * valid[..., None]
    add = lambda x: jnp.einsum("brn,br->n", by_type, x)
    scores = Scores(
        loss=add(query_loss),
        correct=add(right.all(-1).astype(jnp.float32)),
        count=add(jnp.ones_like(valid)),
    )
    count = valid.sum() if total is None else total
    return (query_loss * valid).sum() / jnp.maximum(count, 1.0), scores


def answer_total(batch: TrainBatch) -> Float[Array, ""]:
    """Denominator of `answer_loss`: queries with an answer, by their weights."""
    return _query_weights(batch).sum()


def _query_weights(batch: TrainBatch) -> Float[Array, "B R"]:
    """Weights of the queries; 0 for padding, which has no answer tokens."""
    valid = batch.answer_mask.any(-1).astype(jnp.float32)
    return valid if batch.query_weight is None else valid * batch.query_weight


def dense_loss(
    class_logits: Float[Array, "B P O"],
    centres: Float[Array, "B P 2"],
    targets: DenseTargets,
    centre_weight: float,
    totals: tuple[Float[Array, ""], Float[Array, ""]] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Object class of each patch (cross-entropy) and image position of its centre (L1).

    Covered patches are rare; they have the same total weight as the bare ones.

    Args:
      class_logits: of the object classes.
      centres: predicted centres, in image sides.
      targets: classes and centres.
      centre_weight: weight of the L1 distance in image sides.
      totals: numbers of covered and bare patches in the whole batch; None: these
        patches are whole.

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
    """Error of the image positions of named objects, in image sides.

    Questions about two objects compare two positions. With the positions available at
    the name tokens, the answer token needs one attention step for each instead of two.

    Returns:
      Mean L1 distance (the loss) and mean Euclidean distance.
    """
    return _mean_distances(centres, targets.centre, targets.mask, total)


def place_loss(
    places: Float[Array, "B R 3 2"],
    targets: PlaceTargets,
    total: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Error of the future positions of the objects of a query, in metres.

    Returns:
      Mean L1 distance (the loss) and mean Euclidean distance.
    """
    return _mean_distances(places, targets.place, targets.mask, total)


def _mean_distances(points, targets, mask, total):
    """Mean L1 and Euclidean distances over the mask; 0 if it is empty."""
    count = mask.sum() if total is None else total
    mean = lambda distance: (distance * mask).sum() / jnp.maximum(count, 1.0)
    away = points - targets
    # The norm is a metric only, and its gradient at 0 would be NaN.
    euclidean = jnp.linalg.norm(jax.lax.stop_gradient(away), axis=-1)
    return mean(jnp.abs(away).sum(-1)), mean(euclidean)
