"""Names and numbers that a caller may choose, and errors in one line."""

import difflib
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the nearest of `names`, or "" when none is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.4)
    return f" (did you mean {near[0]!r}?)" if near else ""


def known(
    kind: str, name: str, names: Iterable[str], error: type[Exception] = ValueError
) -> str:
    """The name, if it is one of `names`.

    Raises:
      error: it is not; the message says the kind, suggests the nearest and lists all.
    """
    names = tuple(names)
    if name not in names:
        hint = did_you_mean(name, names)
        raise error(f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}")
    return name


def index_below(kind: str, value: int, count: int) -> int:
    """The index, if it is one of `count`; else a ValueError."""
    if not 0 <= value < count:
        raise ValueError(f"{kind} is {value}, expected 0 to {count - 1}")
    return value
