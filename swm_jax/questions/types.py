"""A question type as one record, from which everything else about it follows.

    QuestionType(
        name="block_region", id=2, args=(BLOCK, REGION),
        rule=lambda now, then, region: radius[region] - length(then.a - point[region]),
        wordings=("Is the {a} in the {b} of the board?", ...),
    )

The letters of a wording are the arguments in their order: {a} is the first one. A rule
gives a number in metres; the edges of the answer set turn it into an answer. Yes or no
is the answer set with one edge at zero; a numeric type has bins with a value each:

    bins(3, 4, 5, 10)    answers "three", "four", "five", "ten" (centimetres), whichever
                         is nearest

Axes: ... batch axes, C answers of an answer set.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from swm_jax.arrays import Array, Indices
from swm_jax.envs.scene import array_namespace
from swm_jax.models.types import MAX_ARGS

LETTERS = "abcdefgh"[:MAX_ARGS]  # what wordings call the arguments
OBJECT = "block"  # the kind of argument that names an object of the scene
DIRECTION = "direction"  # the kind whose values go round: half of them on is opposite
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
        choice among `names`. Arguments of one kind count the same things: the side
        "top left" is the direction "up left" in other words.
      names: the word of every value; of an object, by its id.
    """

    kind: str
    names: tuple[str, ...] = dataclasses.field(repr=False)

    @property
    def is_object(self) -> bool:
        """Whether the argument names an object of the scene."""
        return self.kind == OBJECT


@dataclasses.dataclass(frozen=True)
class AnswerSet:
    """The answers of a question type, in the order of the number behind them.

    Attributes:
      answers: C texts.
      values: metres that each answer stands for; None for named answers.
      edges: C - 1 rising numbers in metres; answer i lies above edge i - 1, and up to
        edge i.

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
        """Whether answers stand for numbers."""
        return self.values is not None

    def index(self, value: Float[Array, "..."]) -> Int[Array, "..."]:
        """The answer to numbers in metres: how many edges lie below each."""
        return answer_index(value, np.array(self.edges, np.float32))


def answer_index(
    value: Float[Array, "..."], edges: Float[Array, "... edges"]
) -> Int[Array, "..."]:
    """Index of the answer: how many of the edges lie below the value.

    Args:
      value: metres.
      edges: metres, rising on the last axis; its leading axes broadcast with `value`.
    """
    xp = array_namespace(value, edges)
    if edges.shape[-1] == 1:  # yes or no, without a further axis
        return (value > edges[..., 0]).astype(xp.int32)
    return (xp.asarray(value)[..., None] > edges).sum(-1).astype(xp.int32)


YES_NO = AnswerSet(("no", "yes"))  # the index of an answer is its truth value


def bins(*centimetres: int) -> AnswerSet:
    """Distances in words, each for all that are nearer to it than to its neighbours."""
    metres = [x / 100 for x in centimetres]
    middles = [(x + y) / 2 for x, y in itertools.pairwise(metres)]
    return AnswerSet(
        tuple(number_word(x) for x in centimetres), tuple(metres), tuple(middles)
    )


def number_word(number: int) -> str:
    """A whole number below 100 in words: any tokenizer can write them."""
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
      id: unique over all worlds and never reused: data and metrics count by it.
      args: at most `MAX_ARGS`, objects first.
      rule: (now, then, *choices) -> metres. `now` and `then` are the points that the
        world's language prepares of a scene (`Language.points`), the choices the
        values of the arguments behind the objects. Of yes or no, the sign is the
        answer and the size says by how far.
      wordings: the first is the canonical one; at most 14 words.
      answers: what to choose from.
      about_change: compares with the present, so that at horizon 0 the answer is
        always the first one; the rule of a type about a state must not read `now`.
      symmetric: the two objects may change places; a direction then turns round.

    Raises:
      ValueError: arguments that cannot be asked.
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
        kinds = [arg.is_object for arg in self.args]
        if len(kinds) > MAX_ARGS or kinds != sorted(kinds, reverse=True):
            raise ValueError(
                f"{self.name} has arguments {[arg.kind for arg in self.args]}, "
                f"expected at most {MAX_ARGS}, objects first"
            )
        if self.symmetric and self.objects != 2:
            raise ValueError(f"{self.name} is symmetric, expected two objects")

    @property
    def objects(self) -> int:
        """How many objects a question names: its first columns."""
        return sum(arg.is_object for arg in self.args)

    @property
    def by_default(self) -> bool:
        """Whether it is asked where no types are named: numeric ones are not."""
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


def length(v: Float[Array, "... n"]) -> Float[Array, "..."]:
    """Euclidean length, for rules: its gradient at zero is zero, not NaN."""
    xp = array_namespace(v)
    square = (v * v).sum(-1)
    moved = square > 0
    return xp.where(moved, xp.sqrt(xp.where(moved, square, 1.0)), 0.0)


def cone_margin(
    v: Float[Array, "... 2"],
    way: Float[Array, "... 2"],
    cos: Any,
    sin: Any,
    least: float,
) -> Float[Array, "..."]:
    """Signed distance of a vector to the edge of "that way, and far enough".

    The yes region is a cone around the direction without its tip: length over `least`
    and angle within the tolerance. The exact distance to it grows in every wrong
    direction, where the smaller of "too short" and "off the cone" would reward a
    planner for a move backwards.

    Args:
      v: vectors in the plane, metres.
      way: unit vectors.
      cos, sin: of the tolerance.
      least: metres.
    """
    xp = array_namespace(v, way)
    along, across = along_and_across(v, way)
    inside = sin * along - cos * across  # to the cone's edge, > 0 inside
    edge = xp.maximum(cos * along + sin * across, least)
    outside = -length(xp.stack([along - edge * cos, across - edge * sin], -1))
    return xp.where(inside > 0, xp.minimum(length(v) - least, inside), outside)


def along_and_across(
    v: Float[Array, "... 2"], way: Float[Array, "... 2"]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """A vector's parts along a unit vector and (unsigned) across it."""
    xp = array_namespace(v, way)
    across = xp.abs(v[..., 0] * way[..., 1] - v[..., 1] * way[..., 0])
    return (v * way).sum(-1), across
