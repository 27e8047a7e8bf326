"""Checks of names and indices given by a user, with suggestions in the errors."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import TypeVar


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type name if the text is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


Kind = TypeVar("Kind")


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


def modules_of(package: str, path: Iterable[str]) -> Iterator[ModuleType]:
    """The modules of a package, imported one by one.

    Args:
      package: name of the package.
      path: its folders, `__path__`.
    """
    for module in pkgutil.iter_modules(path, package + "."):
        yield importlib.import_module(module.name)


def gathered(
    package: str, path: Iterable[str], attribute: str, kind: type[Kind], hint: str
) -> dict[str, Kind]:
    """Entries by name that the modules of a package declare, in one dict each.

    Args:
      package, path: as for `modules_of`.
      attribute: name of the dicts; modules without one are skipped.
      kind: type of the entries.
      hint: how an entry is made, for messages.

    Raises:
      ValueError: a name in two modules, or an entry of another type.
    """
    found: dict[str, Kind] = {}
    origin: dict[str, str] = {}
    for module in modules_of(package, path):
        for name, entry in getattr(module, attribute, {}).items():
            if not isinstance(entry, kind):
                raise ValueError(
                    f"{attribute}[{name!r}] of {module.__name__} is {entry!r}, "
                    f"expected a {kind.__name__}: {hint}"
                )
            if name in found:
                raise ValueError(
                    f"{attribute}[{name!r}] stands in {origin[name]} and in "
                    f"{module.__name__}: rename one"
                )
            found[name], origin[name] = entry, module.__name__
    return found
