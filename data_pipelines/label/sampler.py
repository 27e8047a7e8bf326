"""Training batches from stored labels, for episodes without exact predicates.

A label is (start frame, horizon, question, answer, confidence). Starts are drawn by
the total weight of their labels, then labels of a start by weight. The weight of a
label is its confidence divided by the number of labels with the same question and
answer, so that rare answers are drawn as often as common ones. A batch is a pure
function of (seed, step).

Axes: B starts, Q questions, R queries, M starts with labels, T question tokens,
L answer tokens.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from flax import struct
from jaxtyping import Float, Int

from data_pipelines.batches.query_types import type_of_text
from data_pipelines.schema.arrays import EpisodeArrays
from data_pipelines.schema.episode import DataError
from swm_jax.arrays import Array
from swm_jax.models import PAD_TOKEN, Tokenizer, TrainBatch
from swm_jax.models.ask import encode_answers


class LabelBatch(struct.PyTreeNode):
    """Rows of labels for B starts.

    Attributes:
      episode, t: int32[B].
      label: int32[B, R], rows of `LabelSampler`'s table; -1 on padding.
    """

    episode: Int[np.ndarray, " B"]
    t: Int[np.ndarray, " B"]
    label: Int[np.ndarray, "B R"]


class LabelSampler:
    """Sampler of labelled batches, with the interface of `SaqaSampler` in a mixture.

    Attributes:
      episodes: as given.
      questions, answers: the distinct texts.
    """

    def __init__(
        self,
        episodes: EpisodeArrays,
        tokenizer: Tokenizer,
        max_question_tokens: int,
        max_horizon: int,
        other_type: int,
        eos: bool = False,
    ):
        """Tokenises every text once.

        Args:
          episodes: with labels.
          tokenizer: of the model.
          max_question_tokens: of the model.
          max_horizon: labels at larger horizons are left out.
          other_type: query type of a question in free words.
          eos: train the end token behind an answer too.

        Raises:
          DataError: no labels, or a text outside the tokenizer's vocabulary.
        """
        self.episodes = episodes
        rows = [
            (i, *label)
            for i, labels in enumerate(episodes.labels)
            for label in zip(
                labels.t,
                labels.horizon,
                labels.question,
                labels.answer,
                labels.confidence,
            )
            if label[1] <= max_horizon
        ]
        if not rows:
            raise DataError(
                f"{len(episodes)} episodes of domain '{episodes.domain}' hold no label "
                f"up to horizon {max_horizon}: make some with "
                "`python -m data_pipelines.label`"
            )
        episode, t, horizon, question, answer, confidence = zip(*rows)
        self.questions, ask = np.unique(question, return_inverse=True)
        self.answers, say = np.unique(answer, return_inverse=True)
        self._horizon = np.array(horizon, np.int32)
        self._ask, self._say = ask.astype(np.int32), say.astype(np.int32)
        counts = Counter(zip(question, answer))
        common = np.array([counts[pair] for pair in zip(question, answer)])
        self._weight = np.asarray(confidence, np.float64) / common
        start = np.stack([episode, t], -1)
        self._starts, owner = np.unique(start, axis=0, return_inverse=True)
        # Group the labels by start: `_rows[i]` are those of `_starts[i]`.
        order = np.argsort(owner.reshape(-1), kind="stable")
        self._rows = np.split(order, np.cumsum(np.bincount(owner.reshape(-1)))[:-1])
        total = np.array([self._weight[rows].sum() for rows in self._rows])
        if total.sum() <= 0:
            raise DataError("all labels have confidence 0: nothing can be drawn")
        self._share = np.cumsum(total) / total.sum()
        self._tokens, self._mask = _encode(
            tokenizer, self.questions.tolist(), max_question_tokens
        )
        self._answer_tokens, self._answer_mask = _encode_answers(
            tokenizer, self.answers.tolist(), eos
        )
        domain = episodes.domain
        self._types = np.array(
            [type_of_text(str(q), domain, other_type) for q in self.questions], np.int32
        )

    def draw(
        self, seed: int, step: int, images: int, questions: int, queries: int
    ) -> LabelBatch:
        """Starts and labels of a step's batch."""
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        picks = np.searchsorted(self._share, rng.random(images), "right")
        picks = np.minimum(picks, len(self._rows) - 1)
        label = np.full((images, queries), -1, np.int32)
        for b, start in enumerate(picks):
            rows = self._rows[start]
            # Exponential waiting times: a weighted draw without replacement.
            wait = rng.standard_exponential(len(rows)) / (self._weight[rows] + 1e-12)
            rows = rows[np.argsort(wait)]
            first = dict.fromkeys(self._ask[rows].tolist())
            kept = np.isin(self._ask[rows], list(first)[:questions])
            rows = rows[kept][:queries]
            label[b, : len(rows)] = rows
        starts = self._starts[picks].astype(np.int32)
        return LabelBatch(starts[:, 0], starts[:, 1], label)

    def batch(
        self, drawn: LabelBatch, questions: int, actions: Float[Array, "B H A"]
    ) -> TrainBatch:
        """Training batch of a draw: adds pixels, actions and tokens."""
        images, queries = drawn.label.shape
        valid = drawn.label >= 0
        ask = np.where(valid, self._ask[drawn.label], -1)
        asked = np.zeros((images, questions), np.int32)
        place = np.zeros((images, queries), np.int32)
        for b in range(images):
            distinct = list(dict.fromkeys(ask[b][valid[b]].tolist()))
            asked[b] = np.resize(distinct, questions)  # repeats them to fill Q
            place[b][valid[b]] = [distinct.index(q) for q in ask[b][valid[b]]]
        say = np.where(valid, self._say[drawn.label], 0)
        mask = self._answer_mask[say] & valid[..., None]
        return TrainBatch(
            image=self.episodes.image(drawn.episode, drawn.t),
            actions=actions,
            question_tokens=self._tokens[asked],
            question_mask=self._mask[asked],
            query_question=place,
            query_horizon=np.where(valid, self._horizon[drawn.label], 0),
            answer_tokens=np.where(mask, self._answer_tokens[say], PAD_TOKEN),
            answer_mask=mask,
            query_type=np.where(valid, self._types[np.maximum(ask, 0)], 0).astype(
                np.int32
            ),
        )


def _encode(tokenizer: Tokenizer, texts: Sequence[str], length: int):
    try:
        tokens, mask = tokenizer.encode_batch(list(map(str, texts)), length)
    except ValueError as error:
        raise DataError(f"a label's question cannot be read: {error}") from error
    used = int(mask.sum(1).max())
    return np.asarray(tokens[:, :used], np.int32), np.asarray(mask[:, :used])


def _encode_answers(tokenizer: Tokenizer, texts: Sequence[str], eos: bool):
    try:
        tokens = encode_answers(tokenizer, list(map(str, texts)), end=eos)
    except ValueError as error:
        raise DataError(f"a label's answer cannot be written: {error}") from error
    return tokens, tokens != PAD_TOKEN
