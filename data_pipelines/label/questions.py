"""Which questions in words the languages of the worlds know."""

from swm_jax import worlds
from swm_jax.questions import Question


def known_question(text: str, domain: str | None = None) -> Question | None:
    """The question that a text prints; None for free words.

    Args:
      text: the words.
      domain: of the episodes asked about. A world's own language reads its questions;
        of other recordings any world's does.
    """
    languages = worlds.languages()
    own = [language for language in languages if language.name == domain]
    for language in own or languages:
        try:
            return language.parse(text)
        except ValueError:
            continue
    return None
