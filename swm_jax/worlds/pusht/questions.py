"""Question types of Push-T, with one rule in metres each.

The rule gives a signed margin, > 0 exactly when the answer is yes. Words are the
board's, with "T", "goal" and "turn" in addition. Turns are measured in metres by the
path of a point one radius of gyration from the centroid. Where "at the goal" is false,
its margin is minus the distance to the goal (`overlap.goal_distance`), which guides
planners; where it is true, the coverage beyond the threshold.

Axes: ... batch axes (scenes, horizons and questions broadcast). Functions return the
kind of array (numpy or JAX) that they get.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.envs.scene import array_namespace
from swm_jax.questions.language import Language
from swm_jax.questions.types import Arg, QuestionType, bins, cone_margin, length
from swm_jax.questions.wordings import (
    DIRECTIONS,
    SIDES,
    at_side,
    closer,
    moved,
    pushed,
    touching,
)
from swm_jax.worlds.pusht.geometry import GYRATION, PEG_RADIUS
from swm_jax.worlds.pusht.overlap import (
    coverage,
    goal_distance,
    t_gap,
    turn_left,
)
from swm_jax.worlds.pusht.scene import OBJECT_NAMES
from swm_jax.worlds.pusht.tasks import COVERED

TOUCH = 0.005  # metres between peg and T that count as touching
CHANGE = 0.01  # metres, smallest displacement that counts
TURNED = float(np.deg2rad(10.0))  # radians, smallest turn that counts
TOLERANCE = float(np.deg2rad(30.0))  # on each side of a direction

# Clockwise from up in the image: x right, y up.
_ANGLES = np.pi / 4 * np.arange(8)
VECTORS = np.stack([np.sin(_ANGLES), np.cos(_ANGLES)], -1).astype(np.float32)
TURNS = ("left", "right")  # counter-clockwise, clockwise

T = Arg("block", OBJECT_NAMES)
DIRECTION = Arg("direction", DIRECTIONS)  # of a motion
SIDE = Arg("direction", SIDES)  # of an object
TURN = Arg("turn", TURNS)


class Poses(NamedTuple):
    """Poses of T and peg.

    Attributes:
      t: float32[..., 3].
      peg: float32[..., 2].
    """

    t: Float[Array, "... 3"]
    peg: Float[Array, "... 2"]


def _poses(objects, peg) -> Poses:
    return Poses(objects[0], peg)


def _gap(p: Poses):
    return t_gap(p.t, p.peg) - PEG_RADIUS


def _in_cone(v, direction, least):
    """Margin of a vector of length `least` or more within a direction's cone."""
    way = array_namespace(v, direction).asarray(VECTORS)[direction]
    return cone_margin(
        v, way, float(np.cos(TOLERANCE)), float(np.sin(TOLERANCE)), least
    )


def _turned(now, then, way):
    """Turn in a direction beyond `TURNED`, in metres at the radius of gyration."""
    xp = array_namespace(now.t, then.t, way)
    turn = turn_left(now.t, then.t)
    return GYRATION * (xp.where(way == 0, turn, -turn) - TURNED)


def _turned_to_goal(now, then):
    xp = array_namespace(now.t, then.t)
    before, after = (xp.abs(turn_left(each.t)) for each in (now, then))
    return GYRATION * (before - after - TURNED)


def _at_goal(now, then):
    del now  # about a state
    xp = array_namespace(then.t)
    beyond = coverage(then.t) - COVERED
    return xp.where(beyond > 0, beyond, -goal_distance(then.t))


TYPES = (
    QuestionType(
        name="t_touching",
        id=40,
        args=(T,),
        rule=lambda now, then: TOUCH - _gap(then),
        wordings=touching("the peg", "the {a}"),
    ),
    QuestionType(
        name="t_side",
        id=41,
        args=(T, SIDE),
        rule=lambda now, then, side: _in_cone(then.peg - then.t[..., :2], side, 0.0),
        wordings=at_side("the peg", "the {a}", "{b}"),
    ),
    QuestionType(
        name="t_approached",
        id=42,
        args=(T,),
        rule=lambda now, then: _gap(now) - _gap(then) - CHANGE,
        wordings=closer("the peg", "the {a}"),
        about_change=True,
    ),
    QuestionType(
        name="t_moved",
        id=43,
        args=(T,),
        rule=lambda now, then: length(then.t[..., :2] - now.t[..., :2]) - CHANGE,
        wordings=moved("the {a}"),
        about_change=True,
    ),
    QuestionType(
        name="t_moved_direction",
        id=44,
        args=(T, DIRECTION),
        rule=lambda now, then, way: _in_cone(
            then.t[..., :2] - now.t[..., :2], way, CHANGE
        ),
        wordings=pushed("the {a}", "{b}"),
        about_change=True,
    ),
    QuestionType(
        name="t_turned",
        id=45,
        args=(T, TURN),
        rule=_turned,
        wordings=(
            "Did the {a} turn {b}?",
            "Was the {a} turned {b}?",
            "Has the {a} turned {b}?",
            "Did the {a} get turned {b}?",
            "Is the {a} turned {b}?",
        ),
        about_change=True,
    ),
    QuestionType(
        name="t_turned_to_goal",
        id=46,
        args=(T,),
        rule=_turned_to_goal,
        wordings=(
            "Did the {a} turn to the goal?",
            "Was the {a} turned to the goal?",
            "Has the {a} turned to the goal?",
            "Did the {a} get turned to the goal?",
            "Is the {a} turned to the goal?",
        ),
        about_change=True,
    ),
    QuestionType(
        name="t_closer",
        id=47,
        args=(T,),
        rule=lambda now, then: goal_distance(now.t) - goal_distance(then.t) - CHANGE,
        wordings=closer("the {a}", "the goal"),
        about_change=True,
    ),
    QuestionType(
        name="t_at_goal",
        id=48,
        args=(T,),
        rule=_at_goal,
        wordings=(
            "Is the {a} at the goal?",
            "Is the {a} in the goal?",
            "Is the {a} on the goal?",
            "Does the {a} lie in the goal?",
            "Is the goal where the {a} is?",
        ),
    ),
    # A distance: a numeric type, used only where a config names it.
    QuestionType(
        name="t_goal_distance",
        id=49,
        args=(T,),
        rule=lambda now, then: goal_distance(then.t),
        wordings=(
            "How far is the {a} from the goal?",
            "How far apart are the {a} and the goal?",
            "How far from the goal is the {a}?",
            "How far from the goal does the {a} lie?",
            "How far does the {a} lie from the goal?",
        ),
        answers=bins(0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30),
    ),
)

LANGUAGE = Language(
    name="pusht",
    types=TYPES,
    points=_poses,
    robot="peg",
    pose=3,
    axes=2,
    objects=tuple(range(len(OBJECT_NAMES))),
)
