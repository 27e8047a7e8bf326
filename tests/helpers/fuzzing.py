"""Changes of other people's metadata, and the only two ways that may end.

A change drops, nulls, retypes or reorders one field of a tree of dicts and lists. What
reads the tree either succeeds or raises one error of one line: no other exception, no
hang, and nothing half written.
"""

import copy
import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

VALUES = (None, True, 0, -1, 7, 10**18, 0.5, float("nan"), "", "x", "7", "{", "\u2028",
          [], [None], [3, "x"], {}, {"x": 1})  # fmt: skip
SECONDS = 60  # in which a case must end
SHORT = 12  # cases of a target in the short form
PAIRS = int(os.environ.get("FUZZ_PAIRS", "200"))  # of two changes, in the long form
SEED = int(os.environ.get("FUZZ_SEED", "0"))

forms = pytest.mark.parametrize(
    "form", ["short", pytest.param("long", marks=pytest.mark.fuzz)]
)


class Change(NamedTuple):
    """One change; `path` has keys and indices, `value` is what "retype" puts there."""

    path: tuple[Any, ...]
    kind: str
    value: Any = None

    def __str__(self) -> str:
        place = "/".join(map(str, self.path)) or "(root)"
        return f"{self.kind} {place}" + f" to {self.value!r}" * (self.kind == "retype")


def changes(tree: Any, values=VALUES) -> list[Change]:
    """All changes of one field of a tree."""
    found = [Change((), "retype", value) for value in ({}, [], None)]
    for path in _paths(tree):
        found.append(Change(path, "drop"))
        found += [Change(path, "retype", value) for value in values]
        if isinstance(at(tree, path), (dict, list)):
            found.append(Change(path, "reorder"))
    return [*found, Change((), "reorder")]


def applied(tree: Any, *made: Change) -> Any:
    """A copy of a tree with changes; those whose place is gone change nothing."""
    tree = copy.deepcopy(tree)
    for change in made:
        if not change.path:
            tree = _changed(tree, change)
            continue
        try:
            parent = at(tree, change.path[:-1])
            value = parent[change.path[-1]]
            if change.kind == "drop":
                del parent[change.path[-1]]
            else:
                parent[change.path[-1]] = _changed(value, change)
        except (LookupError, TypeError):
            continue
    return tree


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def _changed(value: Any, change: Change) -> Any:
    if change.kind == "retype":
        return copy.deepcopy(change.value)
    if isinstance(value, dict):
        return dict(reversed(value.items()))
    return value[::-1] if isinstance(value, list) else value


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else ()
    if isinstance(tree, list):
        items = enumerate(tree)
    for key, value in items:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def run_cases(
    form: str, name: str, every: list[Change], case: Callable[..., None]
) -> None:
    """Runs `case(*changes)` for a sample (short), or for all and pairs (long).

    Raises:
      ExceptionGroup: the first of the cases that ended otherwise than they may.
    """
    rng = random.Random(f"{name} {SEED}")
    if form == "short":
        chosen = [(each,) for each in rng.sample(every, min(SHORT, len(every)))]
    else:
        pairs = range(PAIRS if len(every) > 1 else 0)
        chosen = [(each,) for each in every]
        chosen += [tuple(rng.sample(every, 2)) for _ in pairs]
    wrong = []
    for made in chosen:
        words = " and ".join(map(str, made))
        with _in_time(words):
            try:
                case(*made)
            except Exception as error:
                error.add_note(f"{name}: {words}")
                wrong.append(error)
    if wrong:
        raise ExceptionGroup(f"{len(wrong)} of {len(chosen)} cases", wrong[:8])


def told(error: type[Exception], action: Callable[[], Any]) -> tuple[str | None, Any]:
    """(line of the one permitted error, None), or (None, result of the action)."""
    try:
        return None, action()
    except error as caught:
        text = str(caught)
        assert text.strip() and len(text.splitlines()) == 1, repr(text)
        assert len(text) < 2000, text[:200]
        return text, None


class _in_time:
    """Context manager that ends a case that hangs."""

    def __init__(self, words: str):
        self._words = words

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._late)
        signal.alarm(SECONDS)

    def __exit__(self, *_: Any) -> None:
        signal.alarm(0)

    def _late(self, *_: Any) -> None:
        raise AssertionError(f"{self._words}: not over after {SECONDS} s")
