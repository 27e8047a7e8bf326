"""Query types: names and ids by which metrics are grouped.

These are the ids of all question types, and of three more kinds of query.
"""

import contextlib

from swm_jax import worlds
from swm_jax.questions import Question
from swm_jax.questions.types import RESERVED_IDS

DETECT, DESCRIBE, LABELLED = sorted(RESERVED_IDS)
_OTHERS = {DETECT: "detect", DESCRIBE: "describe", LABELLED: "labelled"}


def _names() -> tuple[str, ...]:
    """Names by id; an unused id has an empty name."""
    found = {i: kind.name for i, kind in worlds.question_types().items()} | _OTHERS
    return tuple(found.get(i, "") for i in range(max(found) + 1))


QUERY_TYPES = _names()


def known_questions(text: str, domain: str | None = None) -> list[Question]:
    """Questions of the grammars that a text parses as; empty for free text.

    Args:
      text: the question.
      domain: of the episodes. Text about a world is parsed by that world's language;
        text about other recordings by every world's, which gives one result at most
        per language.
    """
    own = domain in worlds.names()
    found = []
    for language in [worlds.language(domain)] if own else worlds.languages():
        with contextlib.suppress(ValueError):
            found.append(language.parse(text))
    return found


def type_of_text(text: str, domain: str, other: int) -> int:
    """Query type of a stored label's question.

    Args:
      text: the question.
      domain: of the episodes.
      other: the type of a question that no language parses, or more than one does.
    """
    found = known_questions(text, domain)
    return found[0].type_id if len(found) == 1 else other
