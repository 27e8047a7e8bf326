"""Geometry of the T: distance of points, coverage of the goal, distance to the goal.

Functions return the kind of array (numpy or JAX) that they get.

Axes: ... batch axes that broadcast; a pose is x, y in metres and yaw in radians.
"""

import numpy as np
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.envs.scene import array_namespace
from swm_jax.questions.types import length
from swm_jax.worlds.pusht.geometry import (
    BOXES,
    GOAL_POSE,
    GYRATION,
    HANDLE,
    OUTLINE,
    T_AREA,
)

_GOAL = np.array(GOAL_POSE, np.float32)


def to_table(pose: Float[Array, "... 3"], points: Array) -> Float[Array, "... 2"]:
    """Points of the T's frame on the table."""
    xp = array_namespace(pose, points)
    cos, sin = xp.cos(pose[..., 2]), xp.sin(pose[..., 2])
    x, y = points[..., 0], points[..., 1]
    return pose[..., :2] + xp.stack([cos * x - sin * y, sin * x + cos * y], -1)


def to_t(pose: Float[Array, "... 3"], points: Array) -> Float[Array, "... 2"]:
    """Points of the table in the T's frame."""
    xp = array_namespace(pose, points)
    cos, sin = xp.cos(pose[..., 2]), xp.sin(pose[..., 2])
    offset = points - pose[..., :2]
    x, y = offset[..., 0], offset[..., 1]
    return xp.stack([cos * x + sin * y, cos * y - sin * x], -1)


def from_handle(
    handle: Float[Array, "... 2"], yaw: Float[Array, "..."]
) -> Float[Array, "... 3"]:
    """The pose whose bar's long edge has its middle at `handle`."""
    xp = array_namespace(handle, yaw)
    x, y = HANDLE
    cos, sin = xp.cos(yaw), xp.sin(yaw)
    arm = xp.stack([cos * x - sin * y, sin * x + cos * y], -1)
    return xp.concatenate([handle - arm, yaw[..., None]], -1)


def t_gap(pose: Float[Array, "... 3"], point: Array) -> Float[Array, "..."]:
    """Metres from a point to the T; negative inside one of its boxes."""
    xp = array_namespace(pose, point)
    local = to_t(pose, point)[..., None, :]
    beyond = xp.abs(local - xp.asarray(BOXES[:, 0])) - xp.asarray(BOXES[:, 1])
    outside = length(xp.maximum(beyond, 0.0))
    return (outside + xp.minimum(beyond.max(-1), 0.0)).min(-1)


def coverage(pose: Float[Array, "... 3"]) -> Float[Array, "..."]:
    """Share of the goal's area that the T covers: 0..1.

    Exact: the area of a polygon within a box equals the shoelace area of its outline
    with x and y clamped to the box, since clamping collapses all that is outside onto
    the box's edge, where it has no area. A clamped edge is straight between the places
    where it crosses the lines of the box's sides, so the area is a sum over at most
    five pieces per edge. Bar and stem of the goal are two such boxes.
    """
    xp = array_namespace(pose)
    goal = xp.asarray(_GOAL)
    # Corners in the goal's frame, [..., 1, 8, 2].
    corners = to_table(pose[..., None, :], xp.asarray(OUTLINE))
    start = to_t(goal, corners)[..., None, :, :]
    along = xp.roll(start, -1, axis=-2) - start
    low = xp.asarray(BOXES[:, 0] - BOXES[:, 1])[:, None]  # [2 boxes, 1, 2]
    high = xp.asarray(BOXES[:, 0] + BOXES[:, 1])[:, None]
    flat = xp.abs(along) < 1e-7  # parallel to a side: no crossing
    step = xp.where(flat, 1.0, along)
    crossings = [xp.where(flat, 0.0, (side - start) / step) for side in (low, high)]
    crossings = xp.clip(xp.concatenate(crossings, -1), 0.0, 1.0)
    ends = xp.zeros_like(crossings[..., :1])
    share = xp.sort(xp.concatenate([ends, crossings, ends + 1.0], -1), axis=-1)
    # [..., 2 boxes, 8 edges, 6 places, 2]
    places = start[..., None, :] + share[..., None] * along[..., None, :]
    places = xp.clip(places, low[..., None, :], high[..., None, :])
    # The shoelace formula is translation invariant; small numbers keep it precise.
    places = places - low[..., None, :]
    a, b = places[..., :-1, :], places[..., 1:, :]
    twice = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return xp.clip(twice.sum((-1, -2, -3)) / (2.0 * T_AREA), 0.0, 1.0)


def turn_left(pose: Float[Array, "... 3"], to: Array = _GOAL) -> Float[Array, "..."]:
    """Turn from a pose to the yaw of `to`, radians in -pi..pi."""
    xp = array_namespace(pose, to)
    turn = to[..., 2] - pose[..., 2]
    return xp.arctan2(xp.sin(turn), xp.cos(turn))


def goal_distance(pose: Float[Array, "... 3"]) -> Float[Array, "..."]:
    """Root mean square distance of the T's points to their goal positions, metres.

    d^2 + 2 g^2 (1 - cos(turn)) for a distance d of the centroids and a radius of
    gyration g: one number for place and angle.
    """
    xp = array_namespace(pose)
    half = 2.0 * GYRATION * xp.sin(0.5 * turn_left(pose))
    return length(
        xp.concatenate([pose[..., :2] - xp.asarray(_GOAL[:2]), half[..., None]], -1)
    )
