"""Question types of the cube world, with one rule in metres each.

The rule gives a signed margin, > 0 exactly when the answer is yes. Definitions, where
the source leaves them open:

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

Contact forces of the simulator agree with the first four, except for gaps of up to 1 mm
without force, which count as touching. As 1 mm is too small a margin for a confidence,
margins of touching are scaled: from 0 at a gap of 1 mm to 0.05 m at contact. Where
"grasped" or "on top" is false, the margin decreases with the distance to the nearest
pose in which it is true, which guides planners.

Axes: ... batch axes (scenes, horizons and questions broadcast). Functions return the
kind of array (numpy or JAX) that they get.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.envs.scene import BLOCK_NAMES, array_namespace
from swm_jax.questions.language import Language
from swm_jax.questions.types import Arg, QuestionType, length
from swm_jax.questions.wordings import closer, touching
from swm_jax.worlds.cube import geometry
from swm_jax.worlds.cube.overlap import cube_gap, finger_gaps
from swm_jax.worlds.cube.scene import CUBES

TOUCH = 0.001  # metres between surfaces
MET = 0.05  # metres, margin of surfaces that meet
CLOSER = 0.015  # metres, a smaller approach is none
ABOVE = 0.015  # metres between centres
LIFTED = 0.05  # metres above where the cube rests
OVERLAP = 0.006  # metres that fingers reach down a grasped cube's sides
_FINGER_BELOW = geometry.FINGER_HALF[2] - geometry.FINGER_RAISE

CUBE = Arg("block", BLOCK_NAMES)


class Poses(NamedTuple):
    """Poses of the objects in a question.

    Attributes:
      a, b: [..., 7], first and second cube; None if there are fewer.
      gripper: [..., 6].
    """

    a: Float[Array, "... 7"] | None
    b: Float[Array, "... 7"] | None
    gripper: Float[Array, "... 6"]


def _poses(cubes, gripper) -> Poses:
    a, b = (*cubes, None, None)[:2]
    return Poses(a, b, gripper)


def _in_frame(rotation, v):
    """Coordinates of a vector in a rotated frame: dot products with its columns."""
    return (rotation * v[..., :, None]).sum(-2)


def _touch(gap):
    """Margin of a distance between surfaces."""
    xp = array_namespace(gap)
    # 0.05 m at contact down to 0 at a gap of 1 mm; beyond, minus the rest of the gap.
    near = MET * xp.clip(1.0 - gap / TOUCH, 0.0, 1.0)
    return xp.where(gap < TOUCH, near, TOUCH - gap)


def _grasped(now, p):
    del now  # about a state
    xp = array_namespace(p.gripper, p.a)
    turn = geometry.yaw_matrix(p.gripper[..., 3])
    offset = p.a[..., :3] - p.gripper[..., :3]
    x, y, z = (_in_frame(turn, offset)[..., i] for i in range(3))
    left, right = p.gripper[..., 4], p.gripper[..., 5]
    touch = _touch(finger_gaps(p.gripper, p.a).max(-1))
    down = z + _FINGER_BELOW + geometry.CUBE_HALF - OVERLAP
    between = xp.minimum(left - y, y + right)
    between = xp.minimum(between, geometry.CUBE_HALF - xp.abs(x))
    inside = xp.minimum(xp.minimum(touch, between), down)
    # Not grasped: minus the hand's distance to the cube and the fingers' to its sides.
    stray = xp.abs(left - geometry.CUBE_HALF) + xp.abs(right - geometry.CUBE_HALF)
    way = length(offset) + 0.5 * stray
    return xp.where(inside > 0, touch, xp.minimum(inside, -way))


def _on_top(now, p):
    del now  # about a state
    xp = array_namespace(p.a, p.b)
    offset = p.a[..., :3] - p.b[..., :3]
    touch = _touch(cube_gap(p.a, p.b))
    level = xp.asarray(np.array([1.0, 1.0, 0.0], np.float32))
    across = _in_frame(geometry.rotation_matrix(p.b[..., 3:]), offset * level)
    over = geometry.CUBE_HALF - xp.abs(across).max(-1)
    inside = xp.minimum(xp.minimum(touch, over), offset[..., 2] - ABOVE)
    rest = xp.asarray(np.array([0.0, 0.0, 2 * geometry.CUBE_HALF], np.float32))
    return xp.where(inside > 0, touch, xp.minimum(inside, -length(offset - rest)))


def _reach(poses):
    return poses.gripper[..., :3] - poses.a[..., :3]


def _closer(before, after):
    return length(before) - length(after) - CLOSER


# Ids are stored in checkpoints and data and must stay.
TYPES = (
    QuestionType(
        name="cube_grasped",
        id=12,
        args=(CUBE,),
        rule=_grasped,
        wordings=(
            "Is the {a} grasped?",
            "Is the {a} held by the gripper?",
            "Does the gripper hold the {a}?",
            "Is the gripper holding the {a}?",
            "Has the gripper grasped the {a}?",
        ),
    ),
    QuestionType(
        name="gripper_touching",
        id=13,
        args=(CUBE,),
        rule=lambda now, then: _touch(finger_gaps(then.gripper, then.a).min(-1)),
        wordings=(
            "Is the gripper touching the {a}?",
            "Does the gripper touch the {a}?",
            "Are the gripper and the {a} touching?",
            "Is the gripper in contact with the {a}?",
            "Is a finger of the gripper touching the {a}?",
        ),
    ),
    QuestionType(
        name="cubes_touching",
        id=14,
        args=(CUBE, CUBE),
        rule=lambda now, then: _touch(cube_gap(then.a, then.b)),
        wordings=touching("the {a}", "the {b}"),
        symmetric=True,
    ),
    QuestionType(
        name="cube_on_top",
        id=15,
        args=(CUBE, CUBE),
        rule=_on_top,
        wordings=(
            "Is the {a} on top of the {b}?",
            "Does the {a} lie on top of the {b}?",
            "Is the {a} stacked on the {b}?",
            "Is the {b} under the {a}?",
            "Does the {a} rest on the {b}?",
        ),
    ),
    QuestionType(
        name="gripper_closer",
        id=16,
        args=(CUBE,),
        rule=lambda now, then: _closer(_reach(now), _reach(then)),
        wordings=closer("the gripper", "the {a}"),
        about_change=True,
    ),
    QuestionType(
        name="cubes_closer",
        id=17,
        args=(CUBE, CUBE),
        rule=lambda now, then: _closer(
            now.a[..., :3] - now.b[..., :3], then.a[..., :3] - then.b[..., :3]
        ),
        wordings=closer("the {a}", "the {b}"),
        about_change=True,
        symmetric=True,
    ),
    QuestionType(
        name="cube_lifted",
        id=18,
        args=(CUBE,),
        rule=lambda now, then: then.a[..., 2] - geometry.CUBE_HALF - LIFTED,
        wordings=(
            "Is the {a} lifted?",
            "Is the {a} in the air?",
            "Has the {a} been lifted?",
            "Is the {a} above the table?",
            "Does the {a} hang above the table?",
        ),
    ),
)

LANGUAGE = Language(
    name="cube",
    types=TYPES,
    points=_poses,
    robot="gripper",
    pose=7,
    axes=3,
    objects=CUBES,
)
