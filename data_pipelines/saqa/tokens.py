"""Questions and answers as tokens: every wording of every question, made once.

Axes: NQ questions, T question tokens, L answer tokens.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from data_pipelines.schema.episode import DataError
from swm_jax.models import PAD_TOKEN, Tokenizer
from swm_jax.questions import ANSWERS, NUM_PHRASINGS, question_table


@dataclasses.dataclass(frozen=True)
class QuestionTokens:
    """Tokens of every wording of every question about some blocks.

    Attributes:
      tokens: int32[NQ, phrasings, T], padded right.
      row: int32[types, args, args], question -> row of `tokens`; -1 where there is
        no such question. Arguments are shifted by one, as they start at -1.
    """

    tokens: Int[np.ndarray, "NQ phrasings T"]
    row: Int[np.ndarray, "types args args"]

    @classmethod
    def make(
        cls,
        tokenizer: Tokenizer,
        block_ids: Any,
        length: int,
        domain: str = "board",
    ) -> "QuestionTokens":
        """Tokenises all questions about `block_ids`, at most `length` tokens each.

        T is the longest one's: padding that no question needs costs time.

        Raises:
          ValueError: a question has more tokens than that.
        """
        table = question_table(tuple(int(i) for i in block_ids), domain)
        texts = [
            table.question(i, phrasing).text
            for i in range(len(table))
            for phrasing in range(NUM_PHRASINGS)
        ]
        tokens, mask = tokenizer.encode_batch(texts, length)
        tokens = tokens[:, : int(mask.sum(1).max())]
        shape = (len(table), NUM_PHRASINGS, tokens.shape[1])
        size = (int(table.type_id.max()) + 1, *(table.args.max(0) + 2))
        row = np.full(size, -1, np.int32)
        row[table.type_id, table.args[:, 0] + 1, table.args[:, 1] + 1] = np.arange(
            len(table)
        )
        return cls(np.asarray(tokens, np.int32).reshape(shape), row)

    def __call__(
        self,
        type_id: Int[np.ndarray, "..."],
        args: Int[np.ndarray, "... 2"],
        phrasing: Int[np.ndarray, "..."],
    ) -> tuple[Int[np.ndarray, "... T"], Bool[np.ndarray, "... T"]]:
        """Tokens of questions, and which of them are no padding."""
        row = self.row[type_id, args[..., 0] + 1, args[..., 1] + 1]
        if (row < 0).any():
            where = tuple(np.argwhere(row < 0)[0])
            raise DataError(
                f"question type {type_id[where]} with arguments {args[where]} is not "
                "about the blocks of this data set"
            )
        tokens = self.tokens[row, phrasing]
        return tokens, tokens != PAD_TOKEN


@dataclasses.dataclass(frozen=True)
class AnswerTokens:
    """Target tokens of every answer.

    Attributes:
      tokens: int32[answers, L].
    """

    tokens: Int[np.ndarray, "answers L"]

    @classmethod
    def make(cls, tokenizer: Tokenizer, eos: bool) -> "AnswerTokens":
        """One token per answer, with the end token behind it if `eos`."""
        end = [tokenizer.eos_id] if eos else []
        rows = [[tokenizer.answer_id(answer), *end] for answer in ANSWERS]
        return cls(np.array(rows, np.int32))

    def __call__(
        self, answer: Int[np.ndarray, "..."], valid: Bool[np.ndarray, "..."]
    ) -> tuple[Int[np.ndarray, "... L"], Bool[np.ndarray, "... L"]]:
        """Target tokens and their mask; padding queries have neither."""
        mask = np.broadcast_to(valid[..., None], (*valid.shape, self.tokens.shape[1]))
        tokens = np.where(mask, self.tokens[answer], PAD_TOKEN).astype(np.int32)
        return tokens, np.ascontiguousarray(mask)
