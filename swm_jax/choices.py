"""Names and numbers that a caller may choose; a wrong one is told what there is."""

import difflib
from collections.abc import Iterable


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """The name, if it is one of `names`.

    Raises:
      ValueError: it is not; says the kind, suggests the nearest and lists all.
    """
    names = tuple(names)
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown {kind} {name!r}; {hint}known: {', '.join(names)}")
    return name


def index_below(kind: str, value: int, count: int) -> int:
    """The index, if it is one of `count`; else a ValueError."""
    if not 0 <= value < count:
        raise ValueError(f"{kind} is {value}, expected 0 to {count - 1}")
    return value
