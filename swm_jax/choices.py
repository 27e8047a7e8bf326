"""Checks of names and indices given by a user, with suggestions in the errors."""

import difflib
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type name if the text is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the nearest of `names`, or "" when none is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.4)
    return f" (did you mean {near[0]!r}?)" if near else ""


def known(
    kind: str, name: str, names: Iterable[str], error: type[Exception] = ValueError
) -> str:
    """Returns `name` if it is one of `names`.

    Raises:
      error: unknown name; the message suggests the nearest one and lists all.
    """
    names = tuple(names)
    if name not in names:
        hint = did_you_mean(name, names)
        raise error(f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}")
    return name


def index_below(kind: str, value: int, count: int) -> int:
    """Returns `value` if it is in 0..count - 1; otherwise raises a ValueError."""
    if not 0 <= value < count:
        raise ValueError(f"{kind} is {value}, expected 0 to {count - 1}")
    return value
