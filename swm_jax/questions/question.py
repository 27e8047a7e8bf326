"""Questions: a type with arguments and a wording, or free text."""

import dataclasses
from collections.abc import Iterable

from swm_jax.models.types import MAX_ARGS
from swm_jax.questions.types import LETTERS, YES_NO, QuestionType


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a scene, as a program and as words.

    Attributes:
      kind: its type.
      args: a value for each of `kind.args`, padded with -1 to `MAX_ARGS`.
      phrasing: index into `kind.wordings`, 0 is the canonical one.

    Raises:
      ValueError: arguments or phrasing out of range, or one object twice.
    """

    kind: QuestionType
    args: tuple[int, ...] = ()
    phrasing: int = 0

    def __post_init__(self):
        kind, args = self.kind, tuple(int(x) for x in self.args)
        args += (-1,) * (MAX_ARGS - len(args))
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "phrasing", int(self.phrasing))
        allowed = [range(len(arg.names)) for arg in kind.args]
        allowed += [(-1,)] * (MAX_ARGS - len(allowed))
        if any(x not in values for x, values in zip(args, allowed, strict=True)):
            spans = ", ".join(map(_span, allowed[: len(kind.args)])) or "none"
            raise ValueError(f"{kind.name} takes arguments {spans}, got {self.args}")
        if len(set(self.blocks)) < len(self.blocks):
            name = kind.args[0].names[args[0]]
            raise ValueError(f"{kind.name} compares two blocks, got {name!r} twice")
        if self.phrasing not in range(len(kind.wordings)):
            raise ValueError(
                f"{kind.name} has {len(kind.wordings)} phrasings, "
                f"got phrasing {self.phrasing}"
            )

    @property
    def type(self) -> str:
        """Name of the type."""
        return self.kind.name

    @property
    def type_id(self) -> int:
        """Id of the type."""
        return self.kind.id

    @property
    def answers(self) -> tuple[str, ...]:
        """Answers of the type's answer set."""
        return self.kind.answers.answers

    @property
    def blocks(self) -> tuple[int, ...]:
        """Ids of the objects that the question names."""
        return self.args[: self.kind.objects]

    @property
    def text(self) -> str:
        """The question in words."""
        words = [arg.names[x] for arg, x in zip(self.kind.args, self.args)]
        wording = self.kind.wordings[self.phrasing]
        return wording.format(**dict(zip(LETTERS, words)))

    def phrasings(self) -> tuple["Question", ...]:
        """The same question in every wording."""
        count = len(self.kind.wordings)
        return tuple(dataclasses.replace(self, phrasing=i) for i in range(count))


@dataclasses.dataclass(frozen=True)
class FreeQuestion:
    """A free-text question without a rule.

    In a goal it has an answer set, such as ("0", "1", "2") for "How many blocks touch
    the peg?". The simulator answers NaN (every candidate is ignored); a model answers
    well if trained on such questions.

    Attributes:
      text: the words.
    """

    text: str
    type_id = -1
    args = (-1,) * MAX_ARGS
    answers = YES_NO.answers

    def __post_init__(self):
        if not self.text.strip():
            raise ValueError("a question needs words")


def check_on_board(question: Question, block_ids: Iterable[int]) -> None:
    """Raises a ValueError naming the first block that is not among `block_ids`."""
    block_ids = [int(i) for i in block_ids]
    for block, arg in zip(question.blocks, question.kind.args):
        if block not in block_ids:
            raise ValueError(
                f"{question.text!r} asks about the {arg.names[block]}, which is not "
                f"on the board: {', '.join(arg.names[i] for i in block_ids)}"
            )


def _span(values) -> str:
    return f"{values[0]}..{values[-1]}"
