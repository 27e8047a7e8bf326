"""Question types: one record with arguments, rule, wordings and answers.

    QuestionType(
        name="block_region", id=2, args=(BLOCK, REGION),
        rule=lambda now, then, region: radius[region] - length(then.a - point[region]),
        wordings=("Is the {a} in the {b} of the board?", ...),
    )

Letters in a wording are the arguments in order: {a} is the first. A rule returns
metres, which the edges of the answer set convert to an answer. ("no", "yes") has one
edge at zero; a numeric type has bins:

    bins(3, 4, 5, 10)    answers "three", "four", "five", "ten" (centimetres), the
                         nearest one

Axes: ... batch axes, C answers of an answer set.
"""

import dataclasses
import itertools
import string
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from swm_jax.arrays import Array, Indices
from swm_jax.envs.scene import array_namespace
from swm_jax.models.types import MAX_ARGS

# Taken by queries that are no question types (data_pipelines.batches.query_types).
RESERVED_IDS = frozenset({19, 20, 21})
LETTERS = "abcdefgh"[:MAX_ARGS]  # placeholders of the arguments in wordings
OBJECT = "block"  # kind of arguments that name an object of the scene
DIRECTION = "direction"  # cyclic kind: (i + n / 2) % n is opposite to i
_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
    "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = (
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Arg:
    """One argument of a question.

    Attributes:
      kind: "block" for an object of the scene; "direction" or any other word for a
        choice among `names`. Arguments of one kind share their values: the side
        "top left" and the direction "up left" are the same value.
      names: word of every value; for objects, indexed by id.
    """

    kind: str
    names: tuple[str, ...] = dataclasses.field(repr=False)

    @property
    def is_object(self) -> bool:
        """Whether the argument names an object of the scene."""
        return self.kind == OBJECT


@dataclasses.dataclass(frozen=True)
class AnswerSet:
    """Answers of a question type, in ascending order of the rule's value.

    Attributes:
      answers: C texts.
      values: metres of each numeric answer; None for named answers.
      edges: C - 1 ascending thresholds in metres; answer i is for values in
        (edge i - 1, edge i].

    Raises:
      ValueError: answers, values and edges that do not fit one another.
    """

    answers: tuple[str, ...]
    values: tuple[float, ...] | None = None
    edges: tuple[float, ...] = (0.0,)

    def __post_init__(self):
        count = len(self.answers)
        if count < 2 or len(set(self.answers)) < count:
            raise ValueError(
                f"an answer set needs distinct answers, got {self.answers}"
            )
        if len(self.edges) != count - 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError(
                f"{count} answers need {count - 1} rising edges, got {self.edges}"
            )
        if self.values is not None and len(self.values) != count:
            raise ValueError(f"{count} answers need as many values, got {self.values}")

    def __len__(self) -> int:
        """C, the number of answers."""
        return len(self.answers)

    @property
    def numeric(self) -> bool:
        """Whether answers are numbers."""
        return self.values is not None

    def index(self, value: Float[Array, "..."]) -> Int[Array, "..."]:
        """Index of the answer for values in metres."""
        return answer_index(value, np.array(self.edges, np.float32))


def answer_index(
    value: Float[Array, "..."], edges: Float[Array, "... edges"]
) -> Int[Array, "..."]:
    """Index of the answer: the number of edges below the value.

    Args:
      value: metres.
      edges: metres, ascending on the last axis; leading axes broadcast with `value`.
    """
    xp = array_namespace(value, edges)
    if edges.shape[-1] == 1:  # yes/no: saves an axis and a sum
        return (value > edges[..., 0]).astype(xp.int32)
    return (xp.asarray(value)[..., None] > edges).sum(-1).astype(xp.int32)


YES_NO = AnswerSet(("no", "yes"))  # the index of an answer is its truth value


def bins(*centimetres: int) -> AnswerSet:
    """Answer set of distances in words; edges are the midpoints between them."""
    metres = [x / 100 for x in centimetres]
    middles = [(x + y) / 2 for x, y in itertools.pairwise(metres)]
    return AnswerSet(
        tuple(number_word(x) for x in centimetres), tuple(metres), tuple(middles)
    )


def number_word(number: int) -> str:
    """A whole number below 100 in words, for tokenizers without digits."""
    if not 0 <= number < 100:
        raise ValueError(f"{number} has no word here, expected 0 to 99")
    if number < len(_NUMBERS):
        return _NUMBERS[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_NUMBERS[ones]}" if ones else "")


@dataclasses.dataclass(frozen=True, eq=False)
class QuestionType:
    """One kind of question.

    Attributes:
      name: unique over all worlds.
      id: unique over all worlds and never reused, because stored data and metrics
        refer to it.
      args: at most `MAX_ARGS`, objects first.
      rule: (now, then, *choices) -> metres. `now` and `then` are the results of
        `Language.points` for the scenes before and after the actions, `choices` the
        values of the non-object arguments. For yes/no types a signed margin.
      wordings: one or more, the first is the canonical one; at most 14 words, and no
        more tokens than the model's `max_question_tokens`.
      answers: the answer set.
      about_change: the rule compares `then` with `now`, so that at horizon 0 the answer
        is always the first one; rules of other types must ignore `now`.
      symmetric: swapping the two objects gives an equivalent question (with the
        opposite direction, if there is one).

    Raises:
      ValueError: a field of another kind, a reserved id, too many arguments, objects
        not first, symmetric without two objects, or a wording with other letters.
    """

    name: str
    id: int
    args: tuple[Arg, ...]
    rule: Callable[..., Any] = dataclasses.field(repr=False)
    wordings: tuple[str, ...] = dataclasses.field(repr=False)
    answers: AnswerSet = dataclasses.field(default=YES_NO, repr=False)
    about_change: bool = False
    symmetric: bool = False

    def __post_init__(self):
        self._check_kinds()
        kinds = [arg.is_object for arg in self.args]
        if len(kinds) > MAX_ARGS or kinds != sorted(kinds, reverse=True):
            raise ValueError(
                f"{self.name} has arguments {[arg.kind for arg in self.args]}, "
                f"expected at most {MAX_ARGS}, objects first"
            )
        if self.symmetric and self.objects != 2:
            raise ValueError(f"{self.name} is symmetric, expected two objects")
        letters = set(LETTERS[: len(self.args)])
        for wording in self.wordings:
            fields = [field for _, field, _, _ in string.Formatter().parse(wording)]
            if unknown := sorted({f for f in fields if f is not None} - letters):
                raise ValueError(
                    f"wording {wording!r} of {self.name} names {unknown}, its "
                    f"arguments are {sorted(letters)}"
                )

    def _check_kinds(self) -> None:
        """Raises ValueError for fields of another kind, such as a text as wordings."""
        if not isinstance(self.id, int) or self.id < 0 or self.id in RESERVED_IDS:
            raise ValueError(
                f"{self.name} has id {self.id!r}, expected a whole number from 0 that "
                f"no type has or had, and none of {sorted(RESERVED_IDS)}"
            )
        for field, kind in (("args", Arg), ("wordings", str)):
            value = getattr(self, field)
            good = isinstance(value, tuple) and all(isinstance(x, kind) for x in value)
            if not good or (field == "wordings" and not value):
                raise ValueError(
                    f"{self.name} has {field}={value!r}, expected a tuple of "
                    f"{kind.__name__}"
                )

    @property
    def objects(self) -> int:
        """Number of object arguments, the first columns of `args`."""
        return sum(arg.is_object for arg in self.args)

    @property
    def by_default(self) -> bool:
        """Whether it is among the default types: all but numeric ones."""
        return not self.answers.numeric

    def rows(self, object_ids: Indices) -> Int[np.ndarray, "n 3"]:
        """Arguments of all questions about some objects, pairs in both orders."""
        columns = [
            [int(i) for i in object_ids] if arg.is_object else range(len(arg.names))
            for arg in self.args
        ]
        rows = [
            (*row, *[-1] * (MAX_ARGS - len(row)))
            for row in itertools.product(*columns)
            if self.objects < 2 or row[0] != row[1]
        ]
        return np.array(rows, np.int32).reshape(-1, MAX_ARGS)  # one cube has no pairs


def check_unique(types: Iterable[QuestionType]) -> None:
    """Raises ValueError for two types of one id or one name."""
    types = tuple(types)
    for field in ("id", "name"):
        seen: dict[Any, str] = {}
        for kind in types:
            value = getattr(kind, field)
            if value in seen:
                free = max(each.id for each in types) + 1
                raise ValueError(
                    f"question types {seen[value]} and {kind.name} have one {field}, "
                    f"{value!r}: both are unique over all worlds; ids from {free} on "
                    "are free here"
                )
            seen[value] = kind.name


def length(v: Float[Array, "... n"]) -> Float[Array, "..."]:
    """Euclidean length whose gradient at zero is zero instead of NaN."""
    xp = array_namespace(v)
    square = (v * v).sum(-1)
    # Both branches of `where` are differentiated: sqrt must not see a zero.
    moved = square > 0
    return xp.where(moved, xp.sqrt(xp.where(moved, square, 1.0)), 0.0)


def cone_margin(
    v: Float[Array, "... 2"],
    way: Float[Array, "... 2"],
    cos: Any,
    sin: Any,
    least: float,
) -> Float[Array, "..."]:
    """Signed distance to the region "in this direction, and far enough".

    The region is a truncated cone: length above `least`, angle to `way` within the
    tolerance. The exact signed distance decreases in every wrong direction; the minimum
    of the two conditions' margins would reward some moves backwards.

    Args:
      v: vectors in the plane, metres.
      way: unit vectors.
      cos, sin: of the angular tolerance.
      least: minimum length, metres.

    Returns:
      Metres, > 0 inside the region.
    """
    xp = array_namespace(v, way)
    along, across = along_and_across(v, way)
    inside = sin * along - cos * across  # to the cone's edge, > 0 inside
    # Distance from the tip of the nearest point on the cone's edge.
    edge = xp.maximum(cos * along + sin * across, least)
    outside = -length(xp.stack([along - edge * cos, across - edge * sin], -1))
    return xp.where(inside > 0, xp.minimum(length(v) - least, inside), outside)


def along_and_across(
    v: Float[Array, "... 2"], way: Float[Array, "... 2"]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Components of a vector along a unit vector and (unsigned) perpendicular to it."""
    xp = array_namespace(v, way)
    across = xp.abs(v[..., 0] * way[..., 1] - v[..., 1] * way[..., 0])
    return (v * way).sum(-1), across
