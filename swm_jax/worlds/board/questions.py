"""Question types of the board, with one rule in metres each.

The rule gives a signed margin, > 0 exactly when the answer is yes, which serves as a
label, as the logit of the simulator world model and as a value for planners. Distances
are between centres. Questions about a state depend on the scene after h actions
(`then`); questions about change compare it with the scene before them (`now`).
Thresholds are those of the Semantic World Models paper; the ray of a direction starts
where blocks touch (0.05 m) and ends at 0.1 m.

All wordings are ours and have 14 words at most, to fit in 16 tokens.

Axes: ... batch axes (scenes, horizons and questions broadcast), 2 = (x, y).
"""

from typing import NamedTuple

from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.envs.scene import BLOCK_NAMES, array_namespace
from swm_jax.questions.language import Language
from swm_jax.questions.types import (
    Arg,
    QuestionType,
    along_and_across,
    bins,
    cone_margin,
    length,
)
from swm_jax.questions.wordings import (
    DIRECTIONS,
    SIDES,
    at_side,
    closer,
    how_far,
    moved,
    pushed,
    touching,
)
from swm_jax.worlds.board.words import (
    DIRECTION_TOLERANCE,
    DIRECTION_VECTORS,
    PROMPTS,
    REGION_POINTS,
    REGION_RADII,
    REGIONS,
)

TOUCH = 0.05  # metres, centres closer than this touch
RAY = (0.05, 0.1)  # metres from the reference block, where a direction's ray runs
RAY_TOLERANCE = 0.04  # metres
CHANGE = 0.04  # metres, smallest displacement that counts
APART = 0.1  # metres, centres farther apart are far from each other

BLOCK = Arg("block", BLOCK_NAMES)
REGION = Arg("region", REGIONS)
DIRECTION = Arg("direction", DIRECTIONS)  # of a motion
SIDE = Arg("direction", SIDES)  # of an object

# Centimetres: fine near the thresholds of touching and moving, coarse beyond.
APART_BY = bins(3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 40, 60)
MOVED_BY = bins(0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30)


class Points(NamedTuple):
    """Positions of the objects in a question, in metres.

    Attributes:
      a, b: float32[..., 2], the first and second block; None if there are fewer.
      peg: float32[..., 2].
    """

    a: Float[Array, "... 2"] | None
    b: Float[Array, "... 2"] | None
    peg: Float[Array, "... 2"]


def _points(blocks, peg) -> Points:
    a, b = (*blocks, None, None)[:2]
    return Points(a, b, peg)


def _near_ray(v, direction):
    """Signed distance of a vector to the edge of the strip around a direction's ray."""
    xp = array_namespace(v, direction)
    along, across = along_and_across(v, xp.asarray(DIRECTION_VECTORS)[direction])
    beyond = along - xp.clip(along, *RAY)  # past either end of the ray, a capsule
    return RAY_TOLERANCE - length(xp.stack([beyond, across], -1))


def _went(v, direction):
    """Margin of a displacement of at least `CHANGE` within a direction's cone."""
    xp = array_namespace(v, direction)
    tolerance = xp.asarray(DIRECTION_TOLERANCE)[direction]
    way = xp.asarray(DIRECTION_VECTORS)[direction]
    return cone_margin(v, way, xp.cos(tolerance), xp.sin(tolerance), CHANGE)


def _in_region(xy, region):
    xp = array_namespace(xy, region)
    gap = length(xy - xp.asarray(REGION_POINTS)[region])
    return xp.asarray(REGION_RADII)[region] - gap


def _closer(before, after):
    return length(before) - length(after) - CHANGE


# Ids are stored in checkpoints and data and must stay.
TYPES = (
    QuestionType(
        name="block_touching",
        id=0,
        args=(BLOCK, BLOCK),
        rule=lambda now, then: TOUCH - length(then.a - then.b),
        wordings=touching("the {a}", "the {b}"),
        symmetric=True,
    ),
    QuestionType(
        name="peg_touching",
        id=1,
        args=(BLOCK,),
        rule=lambda now, then: TOUCH - length(then.peg - then.a),
        wordings=touching("the peg", "the {a}"),
    ),
    QuestionType(
        name="block_region",
        id=2,
        args=(BLOCK, REGION),
        rule=lambda now, then, region: _in_region(then.a, region),
        wordings=(
            "Is the {a} in the {b} of the board?",
            "Is the {a} at the {b} of the board?",
            "Is the {a} near the {b} of the board?",
            "Does the {a} lie in the {b} of the board?",
            "Is the {b} of the board where the {a} is?",
        ),
    ),
    QuestionType(
        name="block_direction",
        id=3,
        args=(BLOCK, BLOCK, SIDE),
        rule=lambda now, then, side: _near_ray(then.a - then.b, side),
        wordings=at_side("the {a}", "the {b}", "{c}"),
        symmetric=True,
    ),
    QuestionType(
        name="blocks_closer",
        id=4,
        args=(BLOCK, BLOCK),
        rule=lambda now, then: _closer(now.a - now.b, then.a - then.b),
        wordings=closer("the {a}", "the {b}"),
        about_change=True,
        symmetric=True,
    ),
    QuestionType(
        name="peg_closer",
        id=5,
        args=(BLOCK,),
        rule=lambda now, then: _closer(now.peg - now.a, then.peg - then.a),
        wordings=closer("the peg", "the {a}"),
        about_change=True,
    ),
    QuestionType(
        name="block_moved",
        id=6,
        args=(BLOCK,),
        rule=lambda now, then: length(then.a - now.a) - CHANGE,
        wordings=moved("the {a}"),
        about_change=True,
    ),
    QuestionType(
        name="block_moved_direction",
        id=7,
        args=(BLOCK, DIRECTION),
        rule=lambda now, then, way: _went(then.a - now.a, way),
        wordings=pushed("the {a}", "{b}"),
        about_change=True,
    ),
    QuestionType(
        name="peg_moved_direction",
        id=8,
        args=(DIRECTION,),
        rule=lambda now, then, way: _went(then.peg - now.peg, way),
        wordings=(
            "Did the peg move {a}?",
            "Was the peg moved {a}?",
            "Has the peg moved {a}?",
            "Did the peg go {a}?",
            "Did the peg travel {a}?",
        ),
        about_change=True,
    ),
    QuestionType(
        name="peg_direction",
        id=9,
        args=(BLOCK, SIDE),
        rule=lambda now, then, side: _near_ray(then.peg - then.a, side),
        wordings=at_side("the peg", "the {a}", "{b}"),
    ),
    QuestionType(
        name="peg_moved",
        id=10,
        args=(),
        rule=lambda now, then: length(then.peg - now.peg) - CHANGE,
        wordings=moved("the peg"),
        about_change=True,
    ),
    QuestionType(
        name="blocks_apart",
        id=11,
        args=(BLOCK, BLOCK),
        rule=lambda now, then: length(then.a - then.b) - APART,
        wordings=(
            "Is the {a} far from the {b}?",
            "Does the {a} lie far from the {b}?",
            "Are the {a} and the {b} far apart?",
            "Is the {a} apart from the {b}?",
            "Are the {a} and the {b} apart?",
        ),
        symmetric=True,
    ),
    # Distances: numeric types, used only where a config names them.
    QuestionType(
        name="blocks_distance",
        id=22,
        args=(BLOCK, BLOCK),
        rule=lambda now, then: length(then.a - then.b),
        wordings=how_far("the {a}", "the {b}"),
        answers=APART_BY,
        symmetric=True,
    ),
    QuestionType(
        name="peg_distance",
        id=23,
        args=(BLOCK,),
        rule=lambda now, then: length(then.peg - then.a),
        wordings=how_far("the peg", "the {a}"),
        answers=APART_BY,
    ),
    QuestionType(
        name="block_moved_distance",
        id=24,
        args=(BLOCK,),
        rule=lambda now, then: length(then.a - now.a),
        wordings=(
            "How far did the {a} move?",
            "How far was the {a} moved?",
            "How far has the {a} moved?",
            "How far did the {a} go?",
            "How far did the {a} get pushed?",
        ),
        answers=MOVED_BY,
        about_change=True,
    ),
)

LANGUAGE = Language(
    name="board",
    types=TYPES,
    points=_points,
    robot="peg",
    pose=2,
    axes=2,
    objects=tuple(range(len(BLOCK_NAMES))),
    prompts=PROMPTS,
)
