"""What is true on the board: one signed margin in metres per question.

A margin is > 0 exactly when the answer is yes; its size says by how far, so that it
serves as a label, as the logit of the simulator world model and as a value for
planners. Distances are centre to centre. State questions read `scene_h`, the scene
after h actions; questions about change compare it with `scene_0`, where the actions
began. Thresholds are those of the Semantic World Models paper; the ray of a
direction starts where blocks touch (0.05 m) and ends at 0.1 m.

Axes: ... batch axes (scenes, horizons and questions broadcast), 2 = (x, y).
The rules run on numpy arrays (data loading) and on jax arrays (jit, vmap, gradients)
alike: whichever comes in goes out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from swm_jax.envs.scene import AnyScene
from swm_jax.questions import cube_predicates
from swm_jax.questions.board_words import (
    DIRECTION_TOLERANCE,
    DIRECTION_VECTORS,
    REGION_POINTS,
    REGION_RADII,
)

TOUCH = 0.05  # metres, centres closer than this touch
RAY = (0.05, 0.1)  # metres from the reference block, where a direction's ray runs
RAY_TOLERANCE = 0.04  # metres
CHANGE = 0.04  # metres, a smaller change is none
APART = 0.1  # metres, centres farther apart are far from each other


class Points(NamedTuple):
    """Where the things a question names are, before (0) and after h actions.

    Attributes:
      a0, a: float32[..., 2], the first block.
      b0, b: float32[..., 2], the second block.
      peg0, peg: float32[..., 2].
    """

    a0: Float[Array, "... 2"]
    a: Float[Array, "... 2"]
    b0: Float[Array, "... 2"]
    b: Float[Array, "... 2"]
    peg0: Float[Array, "... 2"]
    peg: Float[Array, "... 2"]


def margin(
    type_id: Int[Array, "..."],
    args: Int[Array, "... 2"],
    scene_0: AnyScene,
    scene_h: AnyScene,
) -> Float[Array, "..."]:
    """Signed margin in metres of every question, > 0 exactly when yes.

    Batch axes broadcast as in numpy: for scenes [B] and questions [B, Q] pass
    `expand(scene, 1)`; for scenes [S, N, K] and questions [S, Q] pass
    `expand(scene, 1)` and `type_id[:, None, None]`.

    Args:
      type_id: index into `ALL_TYPES`.
      args: as `grammar.Question.args`.
      scene_0: the scene where the actions begin.
      scene_h: the scene asked about, of the same domain.

    Returns:
      Metres; NaN where a question names a block that is not there, and where it
      belongs to the other domain.
    """
    if hasattr(scene_h, "gripper"):
        return cube_predicates.margin(type_id, args, scene_0, scene_h, len(TYPES))
    arrays = (type_id, args, scene_0.block_pose, scene_h.block_pose)
    xp = _namespace(*arrays)
    type_id, args = xp.asarray(type_id), xp.asarray(args)
    first, other, index = arguments(type_id, args)
    a0, has_a = _find(scene_0, first)
    a, _ = _find(scene_h, first)
    b0, has_b = _find(scene_0, other)
    b, _ = _find(scene_h, other)
    points = Points(a0, a, b0, b, scene_0.peg, scene_h.peg)
    result = xp.nan
    for type_index, rule in enumerate(RULES.values()):
        value = rule(points, index)
        value = xp.where(has_a, value, xp.nan) if USES_A[type_index] else value
        value = xp.where(has_b, value, xp.nan) if USES_B[type_index] else value
        result = xp.where(type_id == type_index, value, result)
    return result.astype(xp.float32)


def answer(
    type_id: Int[Array, "..."],
    args: Int[Array, "... 2"],
    scene_0: AnyScene,
    scene_h: AnyScene,
) -> Bool[Array, "..."]:
    """True where the answer is yes; arguments as for `margin`."""
    return margin(type_id, args, scene_0, scene_h) > 0


def places(
    type_id: Int[Array, "..."], args: Int[Array, "... 2"], scene: AnyScene
) -> tuple[Float[Array, "... 3 2"], Bool[Array, "... 3"]]:
    """Where a question's first block, second block and the peg are.

    Batch axes broadcast as for `margin`.

    Returns:
      Metres on the board, and which of the three there are (the peg always).
    """
    xp = _namespace(type_id, args, scene.block_pose)
    type_id, args = xp.asarray(type_id), xp.asarray(args)
    first, other, _ = arguments(type_id, args)
    a, has_a = _find(scene, first)
    b, has_b = _find(scene, other)
    has_a, has_b = (
        has & xp.asarray(uses)[type_id]
        for has, uses in ((has_a, USES_A), (has_b, USES_B))
    )
    peg = xp.broadcast_to(scene.peg, a.shape)
    mask = xp.stack([has_a, has_b, xp.ones_like(has_a)], -1)
    return xp.stack([a, b, peg], -2), mask


def expand(scene: AnyScene, axes: int = 1) -> AnyScene:
    """Adds `axes` batch axes behind a scene's own, to broadcast with questions."""
    key = (slice(None),) * len(scene.batch_shape) + (None,) * axes
    return jax.tree.map(lambda x: x[key], scene)


def arguments(
    type_id: Int[Array, "..."], args: Int[Array, "... 2"]
) -> tuple[Int[Array, "..."], Int[Array, "..."], Int[Array, "..."]]:
    """First block, second block, and index of a region or direction."""
    xp = _namespace(type_id, args)
    first, second = args[..., 0], args[..., 1]
    side = type_id == TYPES.index("block_direction")
    other = xp.where(side, second // 8, second)
    return first, other, xp.where(side, second % 8, second)


def _namespace(*arrays):
    return jnp if any(isinstance(x, jax.Array) for x in arrays) else np


def _find(scene, block):
    """Centre of the block with id `block`, and whether it is on the board."""
    xp = _namespace(scene.block_pose, block)
    match = scene.block_id == block[..., None]
    # Not an index: a sum over the eight slots batches and fuses better.
    xy = xp.where(match[..., None], scene.block_pose[..., :2], 0.0).sum(-2)
    return xy, match.any(-1)


def _length(v):
    """Euclidean length whose gradient at zero is zero, not NaN."""
    xp = _namespace(v)
    square = (v * v).sum(-1)
    moved = square > 0
    return xp.where(moved, xp.sqrt(xp.where(moved, square, 1.0)), 0.0)


def _frame(v, direction):
    """A vector's parts along a direction and (unsigned) across it."""
    xp = _namespace(v, direction)
    d = xp.asarray(DIRECTION_VECTORS)[xp.clip(direction, 0, 7)]
    along = (v * d).sum(-1)
    across = xp.abs(v[..., 0] * d[..., 1] - v[..., 1] * d[..., 0])
    return along, across


def _near_ray(v, direction):
    """How far inside the strip around the ray: v is near some point of it."""
    xp = _namespace(v, direction)
    along, across = _frame(v, direction)
    beyond = along - xp.clip(along, *RAY)
    return RAY_TOLERANCE - _length(xp.stack([beyond, across], -1))


def _went(v, direction):
    """Signed distance of a displacement to the edge of "far enough, that way".

    The yes region is a cone around the direction without its tip: length over
    `CHANGE` and angle within the tolerance. The exact distance to it grows in
    every wrong direction, where the smaller of "too short" and "off the cone"
    would reward a planner for a move backwards.
    """
    xp = _namespace(v, direction)
    along, across = _frame(v, direction)
    tolerance = xp.asarray(DIRECTION_TOLERANCE)[xp.clip(direction, 0, 7)]
    cos, sin = xp.cos(tolerance), xp.sin(tolerance)
    inside = sin * along - cos * across  # to the cone's edge, > 0 inside
    edge = xp.maximum(cos * along + sin * across, CHANGE)
    outside = -_length(xp.stack([along - edge * cos, across - edge * sin], -1))
    return xp.where(inside > 0, xp.minimum(_length(v) - CHANGE, inside), outside)


def _in_region(xy, region):
    xp = _namespace(xy, region)
    region = xp.clip(region, 0, 8)
    gap = _length(xy - xp.asarray(REGION_POINTS)[region])
    return xp.asarray(REGION_RADII)[region] - gap


# One rule per type: (points, index of the direction or region) -> margin.
RULES = {
    "block_touching": lambda p, k: TOUCH - _length(p.a - p.b),
    "peg_touching": lambda p, k: TOUCH - _length(p.peg - p.a),
    "block_region": lambda p, k: _in_region(p.a, k),
    "block_direction": lambda p, k: _near_ray(p.a - p.b, k),
    "blocks_closer": lambda p, k: _length(p.a0 - p.b0) - _length(p.a - p.b) - CHANGE,
    "peg_closer": lambda p, k: _length(p.peg0 - p.a0) - _length(p.peg - p.a) - CHANGE,
    "block_moved": lambda p, k: _length(p.a - p.a0) - CHANGE,
    "block_moved_direction": lambda p, k: _went(p.a - p.a0, k),
    "peg_moved_direction": lambda p, k: _went(p.peg - p.peg0, k),
    # Three of our own, for planning: where to push from, whether the peg moves at
    # all, and when two blocks are as far apart as the task "separate" wants them.
    "peg_direction": lambda p, k: _near_ray(p.peg - p.a, k),
    "peg_moved": lambda p, k: _length(p.peg - p.peg0) - CHANGE,
    "blocks_apart": lambda p, k: _length(p.a - p.b) - APART,
}
TYPES = tuple(RULES)
# The id of a type is its position here and holds within one version of the code: a new
# type of the board moves those of the cube. Files name types by words (labels, logs,
# results); what a seed draws follows the order.
ALL_TYPES = TYPES + cube_predicates.CUBE_TYPES
DOMAINS = {"board": TYPES, "cube": cube_predicates.CUBE_TYPES}
# Whether a type names a first and a second block, by index into `ALL_TYPES`.
USES_A = tuple(name not in ("peg_moved", "peg_moved_direction") for name in ALL_TYPES)
USES_B = tuple(
    name in ("block_touching", "block_direction", "blocks_closer", "blocks_apart")
    or name in cube_predicates.USES_SECOND
    for name in ALL_TYPES
)
# Questions about change: the answer at horizon 0 is always no.
CHANGE_TYPES = tuple(n for n in ALL_TYPES if "closer" in n or "moved" in n)


def domain_of(type: str) -> str:
    """The domain, a key of `DOMAINS`, of a question type."""
    return next(name for name, types in DOMAINS.items() if type in types)
