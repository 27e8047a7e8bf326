"""Query types: what per-type metrics count by.

The ids of question types, and of three kinds of query beside them.
"""

from swm_jax import worlds

DETECT, DESCRIBE, LABELLED = 19, 20, 21  # ids that no question type has
_OTHERS = {DETECT: "detect", DESCRIBE: "describe", LABELLED: "labelled"}


def _names() -> tuple[str, ...]:
    """Name of every id up to the last; ids of nothing have empty ones."""
    found = {i: kind.name for i, kind in worlds.question_types().items()}
    if taken := found.keys() & _OTHERS:
        raise ValueError(f"ids {sorted(taken)} are those of {list(_OTHERS.values())}")
    found |= _OTHERS
    return tuple(found.get(i, "") for i in range(max(found) + 1))


QUERY_TYPES = _names()
