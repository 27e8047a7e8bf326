"""Questions outside the grammar: words alone, for world models that read."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class FreeQuestion:
    """A question in words that no predicate answers.

    In a goal it comes with an answer set, such as ("0", "1", "2") for "How many
    blocks touch the peg?". The simulator has no answer to it (NaN, so that every
    candidate is ignored), and a model only if training taught it such questions.

    Attributes:
      text: the words.
    """

    text: str
    type_id = -1
    args = (-1, -1)

    def __post_init__(self):
        if not self.text.strip():
            raise ValueError("a question needs words")
