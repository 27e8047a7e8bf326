"""Query types: what per-type metrics count by.

The ids of question types, and of three kinds of query beside them.
"""

import contextlib

from swm_jax import worlds
from swm_jax.questions import Question

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


def known_questions(text: str, domain: str | None = None) -> list[Question]:
    """The questions that a text prints, at most one per language; none for free words.

    Args:
      text: the words.
      domain: of the episodes asked about. A world's own language reads its questions;
        of other recordings any world's does.
    """
    own = domain in worlds.names()
    found = []
    for language in [worlds.language(domain)] if own else worlds.languages():
        with contextlib.suppress(ValueError):
            found.append(language.parse(text))
    return found


def type_of_text(text: str, domain: str, other: int) -> int:
    """The query type that a label's question counts as.

    Args:
      text: the question.
      domain: of the episodes.
      other: for a question that no language reads, or more than one.
    """
    found = known_questions(text, domain)
    return found[0].type_id if len(found) == 1 else other
