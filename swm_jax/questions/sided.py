"""A goal that depends on where one block lies as seen from another.

Axes: P questions about the present.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from swm_jax.questions.goal import Goal
from swm_jax.questions.question import Question
from swm_jax.worlds.board.questions import LANGUAGE
from swm_jax.worlds.board.words import (
    DIRECTION_VECTORS,
    DIRECTIONS,
    REGION_POINTS,
    REGIONS,
)

question = LANGUAGE.question

FAR_EVIDENCE = 2.0  # logits that the regions add to the direction they point to


@dataclasses.dataclass(frozen=True, eq=False)
class SidedGoal:
    """A goal for each direction in which block `b` may lie as seen from block `a`.

    Where `b` lies is asked twice: "on the left side of" is exact but true only of
    near blocks, regions of the board are coarse but cover it. Both give evidence
    for each direction; the most likely one wins.

    Attributes:
      a, b: names of the two blocks.
      options: eight goals, one per direction from `a` to `b`.
    """

    a: str
    b: str
    options: tuple[Goal, ...]

    @property
    def present(self) -> tuple[Question, ...]:
        """Eight sides, nine regions of `a`, nine regions of `b`."""
        sides = [question("block_direction", self.b, self.a, d) for d in DIRECTIONS]
        places = [
            question("block_region", x, r) for x in (self.a, self.b) for r in REGIONS
        ]
        return (*sides, *places)

    def given(self, margins: Float[np.ndarray, " P"]) -> Goal:
        """The goal for the most likely direction.

        Args:
          margins: logit of yes minus logit of no of every present question.
        """
        margins = np.nan_to_num(np.asarray(margins, np.float64))
        near, here, there = np.split(margins, [len(DIRECTIONS), len(margins) - 9])
        way = _expected_place(there) - _expected_place(here)
        far = DIRECTION_VECTORS @ way / max(np.linalg.norm(way), 1e-6)
        return self.options[int(np.argmax(near + FAR_EVIDENCE * far))]


def _expected_place(margins):
    """Mean of the region points, weighed by the softmax of their margins."""
    weights = np.exp(margins - margins.max())
    return weights @ REGION_POINTS / weights.sum()
