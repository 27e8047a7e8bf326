"""Which questions in words the languages of the worlds know."""

import contextlib

from swm_jax import worlds
from swm_jax.questions import Question


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
