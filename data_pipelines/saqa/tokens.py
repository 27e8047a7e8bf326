"""Token tables of questions and answers: every wording of every question, made once.

Axes: NQ questions, T question tokens, C answers of the type that has most, L answer
tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from data_pipelines.schema.episode import DataError
from swm_jax.models import PAD_TOKEN, Tokenizer
from swm_jax.models.ask import encode_answers
from swm_jax.questions import Language, QuestionType


@dataclasses.dataclass(frozen=True)
class QuestionTokens:
    """Tokens of every wording of every question about some objects.

    Attributes:
      tokens: int32[NQ, phrasings, T], padded right.
      row: int32[ids, args, args, args], row of a question in `tokens`; -1 for invalid
        arguments. Indices are arguments + 1, since an unused argument is -1.
    """

    tokens: Int[np.ndarray, "NQ phrasings T"]
    row: Int[np.ndarray, "ids args args args"]

    @classmethod
    def make(
        cls,
        tokenizer: Tokenizer,
        object_ids: Any,
        length: int,
        language: Language,
        types: Sequence[str] | None = None,
    ) -> "QuestionTokens":
        """Tokenises all questions about `object_ids`, at most `length` tokens each.

        T is the length of the longest one, since padding costs time.

        Raises:
          ValueError: a question with more tokens, or with a word outside the
            tokenizer's vocabulary.
        """
        table = language.table(tuple(int(i) for i in object_ids), types)
        tokens, mask = tokenizer.encode_batch(table.texts(), length)
        tokens = tokens[:, : int(mask.sum(1).max())]
        shape = (len(table), language.phrasings, tokens.shape[1])
        size = (int(table.type_id.max()) + 1, *(table.args.max(0) + 2))
        row = np.full(size, -1, np.int32)
        row[(table.type_id, *(table.args.T + 1))] = np.arange(len(table))
        return cls(np.asarray(tokens, np.int32).reshape(shape), row)

    def __call__(
        self,
        type_id: Int[np.ndarray, "..."],
        args: Int[np.ndarray, "... 3"],
        phrasing: Int[np.ndarray, "..."],
    ) -> tuple[Int[np.ndarray, "... T"], Bool[np.ndarray, "... T"]]:
        """Tokens of questions and their mask, False on padding."""
        row = self.row[(type_id, *np.moveaxis(args + 1, -1, 0))]
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
    """Target tokens of every answer to every type.

    Attributes:
      tokens: int32[ids, C, L], padded right.
    """

    tokens: Int[np.ndarray, "ids C L"]

    @classmethod
    def make(
        cls, tokenizer: Tokenizer, eos: bool, types: Sequence[QuestionType]
    ) -> "AnswerTokens":
        """Tokenises the answers of all types.

        The end token follows an answer if `eos` is set, or if an answer of its set has
        several tokens ("red" must differ from the start of "red moon").

        Raises:
          ValueError: an answer with a word outside the tokenizer's vocabulary.
        """
        sets = {kind.answers: kind.answers.answers for kind in types}
        rows = {
            each: encode_answers(tokenizer, words, end=eos or None)
            for each, words in sets.items()
        }
        size = max(kind.id for kind in types) + 1
        widest = [max(ids.shape[axis] for ids in rows.values()) for axis in (0, 1)]
        tokens = np.full((size, *widest), PAD_TOKEN, np.int32)
        for kind in types:
            ids = rows[kind.answers]
            tokens[kind.id, : len(ids), : ids.shape[1]] = ids
        return cls(tokens)

    def __call__(
        self,
        type_id: Int[np.ndarray, "..."],
        answer: Int[np.ndarray, "..."],
        valid: Bool[np.ndarray, "..."],
    ) -> tuple[Int[np.ndarray, "... L"], Bool[np.ndarray, "... L"]]:
        """Target tokens and their mask; empty for padding queries."""
        tokens = self.tokens[type_id, answer]
        mask = valid[..., None] & (tokens != PAD_TOKEN)
        return np.where(mask, tokens, PAD_TOKEN).astype(np.int32), mask
