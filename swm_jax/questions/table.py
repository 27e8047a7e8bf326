"""All questions of a domain that can be asked about a set of blocks, as arrays.

Axis: NQ questions. Eight blocks of the board have 849, four cubes 52.
"""

import numpy as np
from flax import struct
from jaxtyping import Int

from swm_jax.questions.board_words import DIRECTIONS, REGIONS
from swm_jax.questions.grammar import Question, check_domain
from swm_jax.questions.predicates import ALL_TYPES, DOMAINS, USES_A, USES_B

_STANDARD = (0, 4, 1, 13, 6, 10, 11, 15)


@struct.dataclass
class QuestionTable:
    """Questions in the form that predicates read.

    Attributes:
      type_id: int32[NQ], index into `ALL_TYPES`, ascending.
      args: int32[NQ, 2], as `Question.args`.
    """

    type_id: Int[np.ndarray, " NQ"]
    args: Int[np.ndarray, "NQ 2"]

    def __len__(self) -> int:
        return len(self.type_id)

    def question(self, index: int, phrasing: int = 0) -> Question:
        """Row `index` as a `Question`."""
        kind = ALL_TYPES[self.type_id[index]]
        return Question(kind, tuple(self.args[index]), phrasing)


def question_table(block_ids=_STANDARD, domain: str = "board") -> QuestionTable:
    """Every question of a domain about the given blocks, pairs in both orders."""
    check_domain(domain)
    parts = [type_arguments(name, block_ids) for name in DOMAINS[domain]]
    first = ALL_TYPES.index(DOMAINS[domain][0])
    type_id = np.repeat(np.arange(len(parts)), [len(p) for p in parts]) + first
    return QuestionTable(type_id.astype(np.int32), np.concatenate(parts))


def type_arguments(name: str, block_ids=_STANDARD) -> Int[np.ndarray, "n 2"]:
    """int32[n, 2], the arguments of every question of one type."""
    blocks = [int(i) for i in block_ids]
    index = ALL_TYPES.index(name)
    firsts = blocks if USES_A[index] else [-1]
    if USES_B[index]:
        sides = len(DIRECTIONS) if name == "block_direction" else 1
        rows = [
            (a, b * sides + d)
            for a in firsts
            for b in blocks
            for d in range(sides)
            if a != b
        ]
    elif name == "block_region" or "direction" in name:
        count = len(REGIONS) if name == "block_region" else len(DIRECTIONS)
        rows = [(a, k) for a in firsts for k in range(count)]
    else:
        rows = [(a, -1) for a in firsts]
    return np.array(rows, np.int32).reshape(-1, 2)  # one cube has no pairs
