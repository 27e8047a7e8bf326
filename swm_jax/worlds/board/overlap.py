"""Distance between two blocks, edge to edge, in pure JAX.

Blocks are the capsules of the physics model, plane segments with a radius. The gap is
the least distance between segments minus the radii. Depths of deep overlaps are
underestimated: for crossing segments the gap is minus the radii.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from swm_jax.arrays import Array
from swm_jax.worlds.board.model import collision_capsules
from swm_jax.worlds.board.scene import SLOT_SHAPES


def block_gap(
    pose_a: Float[Array, "... 3"],
    slot_a: Int[Array, "..."],
    pose_b: Float[Array, "... 3"],
    slot_b: Int[Array, "..."],
) -> Float[Array, "..."]:
    """Metres between the collision shapes of two blocks; negative if they overlap.

    Args:
      pose_a, pose_b: x, y, yaw; leading axes broadcast.
      slot_a, slot_b: slots of the blocks, which determine the shapes.
    """
    ends_a, radius_a = _segments(pose_a, slot_a)
    ends_b, radius_b = _segments(pose_b, slot_b)
    ends_a, radius_a = ends_a[..., :, None, :, :], radius_a[..., :, None]
    ends_b, radius_b = ends_b[..., None, :, :, :], radius_b[..., None, :]
    apart = _segment_distance(ends_a, ends_b) - radius_a - radius_b
    return apart.min((-1, -2))


def _capsule_table() -> np.ndarray:
    """float32[8 slots, 6 capsules, 5]; short lists repeat their first capsule."""
    rows = [collision_capsules(shape) for shape in SLOT_SHAPES]
    longest = max(map(len, rows))
    # Padding by repetition leaves the minimum over capsules unchanged.
    rows = [row + (row[0],) * (longest - len(row)) for row in rows]
    return np.asarray(rows, np.float32)


_CAPSULES = _capsule_table()


def _segments(pose, slot):
    """End points [..., capsules, 2 ends, 2] on the board, and radii."""
    capsules = jnp.asarray(_CAPSULES)[slot]
    ends = capsules[..., :4].reshape(*capsules.shape[:-1], 2, 2)
    cos, sin = jnp.cos(pose[..., 2]), jnp.sin(pose[..., 2])
    turn = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    ends = jnp.einsum("...ij,...cej->...cei", turn, ends)
    ends = ends + pose[..., None, None, :2]
    return ends, jnp.broadcast_to(capsules[..., 4], ends.shape[:-2])


def _segment_distance(a, b):
    """Distance between plane segments [..., 2 ends, 2]; 0 if they cross."""
    ends = [
        _point_to_segment(a[..., 0, :], b),
        _point_to_segment(a[..., 1, :], b),
        _point_to_segment(b[..., 0, :], a),
        _point_to_segment(b[..., 1, :], a),
    ]
    # Segments in a plane are nearest at an end of one of them, unless they cross.
    nearest = jnp.minimum(jnp.minimum(*ends[:2]), jnp.minimum(*ends[2:]))
    crossing = (_sides(a, b) < 0.0) & (_sides(b, a) < 0.0)
    return jnp.where(crossing, 0.0, nearest)


def _point_to_segment(point, segment):
    start, along = segment[..., 0, :], segment[..., 1, :] - segment[..., 0, :]
    length = jnp.maximum((along**2).sum(-1), 1e-12)  # spheres have length 0
    share = jnp.clip(((point - start) * along).sum(-1) / length, 0.0, 1.0)
    return jnp.linalg.norm(point - start - share[..., None] * along, axis=-1)


def _sides(segment, other):
    """Product of cross products, negative if the line separates the ends of `other`."""
    start, along = segment[..., 0, :], segment[..., 1, :] - segment[..., 0, :]
    to = other - start[..., None, :]
    cross = along[..., None, 0] * to[..., 1] - along[..., None, 1] * to[..., 0]
    return cross[..., 0] * cross[..., 1]
