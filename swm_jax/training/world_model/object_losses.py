"""Losses of object tokens: where objects are, and how far chunks move them.

Losses of parts of a batch, divided by the totals of the whole batch, add up to its
loss.

Axes: B images, P patches, K objects, V numbers of a state, A coordinates, N chunks,
G horizons.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.models import FutureTargets, ObjectTargets
from swm_jax.models.objects import TURN, UNIT, ObjectStates

STEP = 0.02  # metres: smaller errors of a displacement count squared, larger linearly
MOVED = 0.005  # metres from which an object counts as moved
FAR = 0.03  # metres, an error that is not the same object's
_TURN_WEIGHT = 0.25  # of cosine and sine: the yaw of symmetric blocks cannot be seen


class ObjectTotals(NamedTuple):
    """Denominators of `object_loss`: patches with and without an object; objects."""

    covered: Float[Array, ""]
    bare: Float[Array, ""]
    objects: Float[Array, ""]


def object_totals(targets: ObjectTargets) -> ObjectTotals:
    """Denominators, counted over a whole batch."""
    owner, state = targets.owner, targets.state
    none = jnp.zeros(())
    count = lambda mask: jnp.sum(mask, dtype=jnp.float32)
    covered = none if owner is None else count(owner > 0)
    bare = none if owner is None else count(owner == 0)
    return ObjectTotals(covered, bare, jnp.float32(state.shape[0] * state.shape[1]))


def object_loss(
    states: ObjectStates, targets: ObjectTargets, totals: ObjectTotals
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Error of the objects' states and, where patches are labelled, of the patches.

    Patches: cross-entropy of what they show (patches with and without an object half
    each) and of which object it is (so that blocks of one colour are told apart), and
    L1 error of their object's state.

    Returns:
      The loss, and `object_error_mm` (mean Euclidean) and `object_far` (share of errors
      above 30 mm).
    """
    error = states.state - targets.state
    loss = _weighted(error).sum() / totals.objects
    if targets.owner is not None:
        loss += _patch_loss(states, targets, totals)
    place = jax.lax.stop_gradient(error[..., :-TURN])
    away = UNIT * jnp.linalg.norm(place, axis=-1)
    return loss, {
        "object_error_mm": 1000.0 * away.sum() / totals.objects,
        "object_far": (away > FAR).sum() / totals.objects,
    }


def _patch_loss(states, targets, totals):
    owner = targets.owner
    covered = (owner > 0) / jnp.maximum(totals.covered, 1.0)
    bare = (owner == 0) / jnp.maximum(totals.bare, 1.0)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    shown = (entropy(states.owner, owner) * 0.5 * (covered + bare)).sum()
    which = jnp.maximum(owner - 1, 0)
    among = (entropy(states.owner[..., 1:], which) * covered).sum()
    own = jnp.take_along_axis(targets.state, which[..., None], 1)
    place = (_weighted(states.patch - own) * covered).sum()
    return shown + among + place


def _weighted(error: Float[Array, "... V"]) -> Float[Array, "..."]:
    """L1 distance of states."""
    size = jnp.abs(error)
    return size[..., :-TURN].sum(-1) + _TURN_WEIGHT * size[..., -TURN:].sum(-1)


def future_totals(targets: FutureTargets) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Numbers of objects that a chunk moves, and does not, over a whole batch."""
    moved = _moved(targets)
    count = lambda mask: jnp.sum(mask, dtype=jnp.float32)
    return count(moved), count(~moved)


def future_loss(
    out: Float[Array, "B N G K _"],
    targets: FutureTargets,
    totals: tuple[Float[Array, ""], Float[Array, ""]],
) -> tuple[Float[Array, ""], ...]:
    """Huber loss of displacements and turns; moved and unmoved objects half each.

    Args:
      out: displacement in units of 2 cm, then turn in radians.

    Returns:
      The loss; the mean Euclidean error of moved and of unmoved objects, and how far
      the moved ones moved, in millimetres.
    """
    error = out[..., :-1] - targets.moved / STEP
    turn = 2 * (out[..., -1] - jnp.clip(targets.turned, -1.5, 1.5))
    each = optax.huber_loss(error).sum(-1) + optax.huber_loss(turn)
    moved = _moved(targets)
    mean = lambda x, mask, total: (x * mask).sum() / jnp.maximum(total, 1.0)
    loss = 0.5 * (mean(each, moved, totals[0]) + mean(each, ~moved, totals[1]))
    away = 1000 * STEP * jnp.linalg.norm(jax.lax.stop_gradient(error), axis=-1)
    far = 1000 * jnp.linalg.norm(targets.moved, axis=-1)
    return (
        loss,
        mean(away, moved, totals[0]),
        mean(away, ~moved, totals[1]),
        mean(far, moved, totals[0]),
    )


def _moved(targets: FutureTargets):
    return jnp.linalg.norm(targets.moved, axis=-1) > MOVED
