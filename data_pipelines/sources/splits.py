"""Train and val episodes of a conversion, from the splits of its source."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.raw import UNCOVERED, Source

# Names of held-out splits: val, validation_seen, test-2, ...
_HELD_OUT = re.compile(
    r"(val(id(ation)?)?|test|dev|eval(uation)?|held.?out)([^a-z].*)?"
)
_TRAIN = re.compile(r"train(ing)?([^a-z].*)?")
_LISTED = 20  # numbers of episodes in a line


@dataclasses.dataclass(frozen=True)
class Split:
    """Episodes to convert.

    Attributes:
      numbers: "train" and "val" -> numbers of episodes.
      uncovered: numbers of episodes that are left out, as no split covers them.
      notes: lines for the user.
    """

    numbers: Mapping[str, Sequence[int]]
    uncovered: Sequence[int]
    notes: Sequence[str]


def split_episodes(
    source: Source,
    val_share: float,
    max_episodes: int = 0,
    take_uncovered: bool = False,
) -> Split:
    """Train and val episodes; the source's own splits where it has both.

    Args:
      source: the reader.
      val_share: without a validation split every `1 / val_share`-th episode is one.
      max_episodes: number of leading episodes; 0 for all.
      take_uncovered: episodes that no split covers go to train.

    Raises:
      DataError: too few episodes.
    """
    own: dict[str, list[int]] = {"train": [], "val": []}
    uncovered: Sequence[int] = ()
    notes = []
    for name, numbers in source.splits.items():
        if name == UNCOVERED:
            uncovered = numbers
            continue
        held_out = _HELD_OUT.fullmatch(name.lower())
        if not held_out and not _TRAIN.fullmatch(name.lower()):
            notes.append(f"split '{name}' goes to train")
        own["val" if held_out else "train"].extend(numbers)
    if uncovered:
        does = "go to train" if take_uncovered else "are left out"
        more = "" if take_uncovered else " (--take_uncovered: to train)"
        notes.append(
            f"{len(uncovered)} episodes are in no split and {does}{more}: "
            f"{listed(uncovered)}"
        )
    if take_uncovered:
        own["train"].extend(uncovered)
        uncovered = ()
    train, val = own["train"], own["val"]
    if max_episodes:
        train, val = train[:max_episodes], val[: max(max_episodes // 10, 1)]
    if not val and len(train) >= 2:
        every = max(round(1 / val_share), 2)
        val = train[every - 1 :: every] or train[-1:]
        train = [number for number in train if number not in set(val)]
    if not train or not val:
        left = f", {len(uncovered)} are in no split" if uncovered else ""
        raise DataError(
            f"{len(train)} episodes for train and {len(val)} for val{left}: expected "
            "at least one of each"
        )
    return Split({"train": train, "val": val}, uncovered, notes)


def listed(numbers: Sequence[int]) -> str:
    """Numbers in a line, the first of many: "2, 5, 7"."""
    text = ", ".join(map(str, numbers[:_LISTED]))
    more = len(numbers) - _LISTED
    return f"{text} and {more} more" if more > 0 else text
