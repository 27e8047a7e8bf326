"""What is true of the cubes: the rules of the cube arm's question types.

As on the board a rule is one function to a signed margin in metres, positive exactly
when the answer is yes. What the source leaves open is settled here:

    gripper_touching  a finger within 1 mm of the cube (box to box)
    cubes_touching    the cubes within 1 mm of each other
    cube_grasped      both fingers touch it, its centre lies between them, and they
                      reach at least 6 mm down its sides
    cube_on_top       a touches b, its centre is more than 0.015 m above b's and over
                      b's footprint
    gripper_closer    the distance from the point between the pads to the cube's
                      centre shrank by more than 0.015 m: p0 - ph > 0.015
    cubes_closer      the same between the centres of two cubes
    cube_lifted       (ours) the cube is more than 0.05 m above where it rests

Contact forces of the simulator agree with the first four up to the 1 mm in which
things count as touching although they do not press on each other. That is too little
for a margin to say how sure one may be, so where surfaces decide, the margin grows
from 0 at 1 mm to 0.05 m where they meet. Where "grasped" or "on top" is false, it falls
with the distance to the nearest pose in which it would be true, so that a planner
knows which way to go.

Axes: ... batch axes (scenes, horizons and questions broadcast). Numpy arrays and JAX
arrays alike: whichever comes in goes out.
"""

import importlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from swm_jax.envs.scene import array_namespace


class _Lazy:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, field):
        return getattr(importlib.import_module(self._name), field)


geometry = _Lazy("swm_jax.worlds.cube.geometry")
_overlap = _Lazy("swm_jax.worlds.cube.overlap")
cube_gap = lambda *x: _overlap.cube_gap(*x)
finger_gaps = lambda *x: _overlap.finger_gaps(*x)
CubeScene = Any

TOUCH = 0.001  # metres between surfaces
MET = 0.05  # metres, margin of surfaces that meet
CLOSER = 0.015  # metres, a smaller approach is none
ABOVE = 0.015  # metres between centres
LIFTED = 0.05  # metres above where the cube rests
OVERLAP = 0.006  # metres that fingers reach down a grasped cube's sides


class Poses(NamedTuple):
    """Where the things a question names are, before (0) and after h actions.

    Attributes:
      a0, a, b0, b: [..., 7], first and second cube.
      gripper0, gripper: [..., 6].
    """

    a0: Float[Array, "... 7"]
    a: Float[Array, "... 7"]
    b0: Float[Array, "... 7"]
    b: Float[Array, "... 7"]
    gripper0: Float[Array, "... 6"]
    gripper: Float[Array, "... 6"]


def margin(
    type_id: Int[Array, "..."],
    args: Int[Array, "... 2"],
    scene_0: CubeScene,
    scene_h: CubeScene,
    first_id: int = 0,
) -> Float[Array, "..."]:
    """Signed margin in metres of every question, > 0 exactly when yes.

    Args:
      type_id: index of the type, counted from `first_id` for the first of `CUBE_RULES`.
      args: as `grammar.Question.args`.
      scene_0: the scene where the actions begin.
      scene_h: the scene asked about.
      first_id: see `type_id`.

    Returns:
      Metres; NaN where a question names a cube that is not there.
    """
    xp = array_namespace(type_id, args, scene_0.gripper, scene_h.gripper)
    type_id, args = xp.asarray(type_id), xp.asarray(args)
    a0, has_a = find(scene_0, args[..., 0])
    a, _ = find(scene_h, args[..., 0])
    b0, has_b = find(scene_0, args[..., 1])
    b, _ = find(scene_h, args[..., 1])
    poses = Poses(a0, a, b0, b, scene_0.gripper, scene_h.gripper)
    result = xp.nan
    for index, (name, rule) in enumerate(CUBE_RULES.items()):
        value = xp.where(has_a, rule(poses), xp.nan)
        value = xp.where(has_b, value, xp.nan) if name in USES_SECOND else value
        result = xp.where(type_id == first_id + index, value, result)
    return result.astype(xp.float32)


def find(scene: CubeScene, block: Int[Array, "..."]):
    """Pose [..., 7] of the cube with id `block`, and whether it is there."""
    xp = array_namespace(scene.block_pose, block)
    match = scene.block_id == xp.asarray(block)[..., None]
    # Not an index: a sum over the few cubes batches and fuses better.
    pose = xp.where(match[..., None], scene.block_pose, 0.0).sum(-2)
    return pose, match.any(-1)


def _length(v):
    """Euclidean length whose gradient at zero is zero, not NaN."""
    xp = array_namespace(v)
    square = (v * v).sum(-1)
    moved = square > 0
    return xp.where(moved, xp.sqrt(xp.where(moved, square, 1.0)), 0.0)


def _in_frame(rotation, v):
    """A vector in the frame of a rotation: its product with each column."""
    return (rotation * v[..., :, None]).sum(-2)


def _touch(gap):
    """Margin of a distance between surfaces."""
    xp = array_namespace(gap)
    near = MET * xp.clip(1.0 - gap / TOUCH, 0.0, 1.0)
    return xp.where(gap < TOUCH, near, TOUCH - gap)


def _grasped(p):
    xp = array_namespace(p.gripper, p.a)
    turn = geometry.yaw_matrix(p.gripper[..., 3])
    offset = p.a[..., :3] - p.gripper[..., :3]
    x, y, z = (_in_frame(turn, offset)[..., i] for i in range(3))
    left, right = p.gripper[..., 4], p.gripper[..., 5]
    touch = _touch(finger_gaps(p.gripper, p.a).max(-1))
    below = geometry.FINGER_HALF[2] - geometry.FINGER_RAISE
    down = z + below + geometry.CUBE_HALF - OVERLAP
    between = xp.minimum(left - y, y + right)
    between = xp.minimum(between, geometry.CUBE_HALF - xp.abs(x))
    inside = xp.minimum(xp.minimum(touch, between), down)
    # Outside: how far the hand is from the cube, and the fingers from its sides.
    stray = xp.abs(left - geometry.CUBE_HALF) + xp.abs(right - geometry.CUBE_HALF)
    way = _length(offset) + 0.5 * stray
    return xp.where(inside > 0, touch, xp.minimum(inside, -way))


def _on_top(p):
    xp = array_namespace(p.a, p.b)
    offset = p.a[..., :3] - p.b[..., :3]
    touch = _touch(cube_gap(p.a, p.b))
    level = xp.asarray(np.array([1.0, 1.0, 0.0], np.float32))
    across = _in_frame(geometry.rotation_matrix(p.b[..., 3:]), offset * level)
    over = geometry.CUBE_HALF - xp.abs(across).max(-1)
    inside = xp.minimum(xp.minimum(touch, over), offset[..., 2] - ABOVE)
    rest = xp.asarray(np.array([0.0, 0.0, 2 * geometry.CUBE_HALF], np.float32))
    return xp.where(inside > 0, touch, xp.minimum(inside, -_length(offset - rest)))


def _closer(before, after):
    return _length(before) - _length(after) - CLOSER


# One rule per type: poses -> margin. The order gives the ids, see `predicates`.
CUBE_RULES = {
    "cube_grasped": _grasped,
    "gripper_touching": lambda p: _touch(finger_gaps(p.gripper, p.a).min(-1)),
    "cubes_touching": lambda p: _touch(cube_gap(p.a, p.b)),
    "cube_on_top": _on_top,
    "gripper_closer": lambda p: _closer(
        p.gripper0[..., :3] - p.a0[..., :3], p.gripper[..., :3] - p.a[..., :3]
    ),
    "cubes_closer": lambda p: _closer(
        p.a0[..., :3] - p.b0[..., :3], p.a[..., :3] - p.b[..., :3]
    ),
    "cube_lifted": lambda p: p.a[..., 2] - geometry.CUBE_HALF - LIFTED,
}
CUBE_TYPES = tuple(CUBE_RULES)
USES_SECOND = ("cubes_touching", "cube_on_top", "cubes_closer")
