"""How the languages of the worlds read questions in words."""

from swm_jax import worlds
from swm_jax.questions import Question

_SPEAKS = {"language_table": "board"}  # recordings in the words of a world


def readings(text: str, domain: str | None = None) -> list[Question]:
    """The questions that a text may print; none for free words.

    Args:
      text: the words.
      domain: of the episodes asked about. A world speaks its own language; other
        recordings may speak any.
    """
    name = _SPEAKS.get(domain, domain)
    own = [language for language in worlds.languages() if language.name == name]
    found = []
    for language in own or worlds.languages():
        try:
            found.append(language.parse(text))
        except ValueError:
            continue
    return found
