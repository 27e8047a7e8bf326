"""Training batches from stored episodes: source, SAQA sampling, tokens, devices.

    stream = make_train_iterator("data/board", config.data, tokenizer, model_config,
                                 seed=0, start_step=1000)
    batch = next(stream)               # numpy TrainBatch of step 1000

The stream is a pure function of (seed, step): grain maps step numbers to batches,
with random access, so a resume is "start at this step" whatever the number of
threads or hosts was. Hosts take rows of the same global batch. The episodes lie
decoded in memory (28 kB a frame at 96 px) and threads share them; every wording of
every question is tokenised once.

Axes: B images, Q questions, R queries, T question tokens, L answer tokens, H actions.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
from jaxtyping import Bool, Int

from data_pipelines.episodes import DataError, EpisodeArrays
from data_pipelines.load import load_episodes
from data_pipelines.saqa import SaqaBatch, SaqaConfig, SaqaSampler
from data_pipelines.saqa_pools import Horizons
from swm_jax.models import PAD_TOKEN, ModelConfig, PlaceTargets, Tokenizer, TrainBatch
from swm_jax.questions import ANSWERS, NUM_PHRASINGS, predicates, question_table

_ENDLESS = 2**40  # steps
_SPLIT_SEED = {"train": 0, "val": 1}  # a split draws a stream of its own


def make_train_iterator(
    data_dir: str | Path,
    config: ml_collections.ConfigDict,
    tokenizer: Tokenizer,
    model_config: ModelConfig,
    *,
    seed: int,
    start_step: int = 0,
    split: str = "train",
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """Endless numpy `TrainBatch`es, the first of them that of `start_step`.

    Args:
      data_dir: a folder made by `data_pipelines.generate`.
      config: `images` B, `questions` Q and `queries` R; optional `answer_eos` (train
        the token behind the answer too; L = 2), `threads` (1) and `prefetch` (4
        batches made ahead).
      tokenizer: of the model.
      model_config: its `max_question_tokens` and `max_horizon`.
      seed: with the step it decides everything.
      start_step: where to begin, or to resume.
      split: "train" or "val".
      rows: those of the B images that this host needs; all by default.

    Returns:
      A grain iterator; `get_state`/`set_state` are Orbax-checkpointable.

    Raises:
      DataError: what `load_episodes` raises, or sizes that cannot work.
    """
    episodes = load_episodes(data_dir, split)
    batches = StepBatches.make(
        episodes, config, tokenizer, model_config, seed=seed, split=split, rows=rows
    )
    return batches.stream(start_step)


@dataclasses.dataclass(frozen=True)
class StepBatches:
    """Training batches by step; see `make_train_iterator`, which makes one.

    Attributes:
      episodes: of one split.
      sampler: draws from them.
      config: sizes of a batch, threads.
      words, answers: their tokens.
      seed: of the stream, different for every split.
      rows: this host's part of a batch, None for all of it.
    """

    episodes: EpisodeArrays
    sampler: SaqaSampler
    config: ml_collections.ConfigDict
    words: "QuestionTokens"
    answers: "AnswerTokens"
    seed: int
    rows: np.ndarray | None

    @classmethod
    def make(
        cls,
        episodes: EpisodeArrays,
        config: ml_collections.ConfigDict,
        tokenizer: Tokenizer,
        model_config: ModelConfig,
        *,
        seed: int,
        split: str = "train",
        rows: Sequence[int] | None = None,
    ) -> "StepBatches":
        """Measures the sampler's weights, tokenises all questions.

        Raises:
          DataError: sizes that cannot work, or too little data.
        """
        if config.queries < config.questions:
            raise DataError(
                f"{config.queries} queries cannot cover {config.questions} questions"
            )
        longest = int(episodes.length.max())
        if longest < model_config.max_horizon:
            raise DataError(
                f"the longest of {len(episodes)} {split} episodes has {longest} "
                f"actions, the model looks {model_config.max_horizon} ahead: too "
                "little data"
            )
        try:
            sampler = SaqaSampler(episodes, saqa_config(model_config.max_horizon))
            # Measures its weights now, before threads share the sampler.
            sampler.balance(config.questions, config.queries)
        except ValueError as error:
            raise DataError(f"{len(episodes)} {split} episodes: {error}") from error
        blocks = np.unique(episodes.block_id)
        return cls(
            episodes,
            sampler,
            config,
            QuestionTokens.make(tokenizer, blocks, model_config.max_question_tokens),
            AnswerTokens.make(tokenizer, config.get("answer_eos", False)),
            2 * seed + _SPLIT_SEED[split],
            None if rows is None else np.asarray(rows),
        )

    def __call__(self, step: int) -> TrainBatch:
        """This host's rows of a step's batch."""
        drawn = self._draw(step)
        if self.rows is not None:
            drawn = jax.tree.map(lambda x: x[self.rows], drawn)
        return to_train_batch(drawn, self.episodes, self.words, self.answers)

    def examples(self, step: int) -> list[dict[str, int]]:
        """Which start each row of a step's batch (all hosts') is: episode and frame."""
        drawn = self._draw(step)
        numbers = self.episodes.episode[drawn.episode]
        return [
            {"episode": int(episode), "t": int(t)}
            for episode, t in zip(numbers, drawn.t)
        ]

    def stream(self, start_step: int) -> grain.DatasetIterator:
        """The batches from a step on, made ahead by threads."""
        options = grain.ReadOptions(
            num_threads=self.config.get("threads", 1),
            prefetch_buffer_size=self.config.get("prefetch", 4),
        )
        steps = grain.MapDataset.range(_ENDLESS).map(self)
        stream = iter(steps.to_iter_dataset(options))
        stream.set_state({"next_index": start_step})
        return stream

    def _draw(self, step: int) -> SaqaBatch:
        sizes = (self.config.images, self.config.questions, self.config.queries)
        return self.sampler.sample_batch(self.seed, int(step), *sizes)


def saqa_config(max_horizon: int) -> SaqaConfig:
    """The sampler's settings for a model that looks this many steps ahead."""
    if max_horizon == Horizons().longest:
        return SaqaConfig()
    ends = sorted({0, *(max(1, max_horizon // k) for k in (4, 2, 1))})
    return SaqaConfig(
        horizons=Horizons(
            longest=max_horizon,
            ends=tuple(ends),
            shares=(0.2, *[0.8 / (len(ends) - 1)] * (len(ends) - 1)),
            planner=tuple(sorted({max(1, max_horizon // 2), max_horizon})),
        )
    )


def to_train_batch(
    drawn: SaqaBatch,
    episodes: EpisodeArrays,
    words: "QuestionTokens",
    answers: "AnswerTokens",
) -> TrainBatch:
    """Adds pixels and tokens to what the sampler drew."""
    tokens, mask = words(drawn.type_id, drawn.args, drawn.phrasing)
    answer_tokens, answer_mask = answers(drawn.query_answer, drawn.query_valid)
    args = np.take_along_axis(drawn.args, drawn.query_question[..., None], 1)
    later = drawn.t[:, None] + drawn.query_horizon
    scene = episodes.scene(drawn.episode[:, None], later)
    place, has = predicates.places(drawn.query_type, args, scene)
    return TrainBatch(
        image=episodes.image(drawn.episode, drawn.t),
        actions=drawn.actions,
        question_tokens=tokens,
        question_mask=mask,
        query_question=drawn.query_question,
        query_horizon=drawn.query_horizon,
        answer_tokens=answer_tokens,
        answer_mask=answer_mask,
        query_type=drawn.query_type,
        places=PlaceTargets(mask=has & drawn.query_valid[..., None], place=place),
    )


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
        cls, tokenizer: Tokenizer, block_ids: Any, length: int
    ) -> "QuestionTokens":
        """Tokenises all questions about `block_ids`, at most `length` tokens each.

        T is the longest one's: padding that no question needs costs time.

        Raises:
          ValueError: a question has more tokens than that.
        """
        table = question_table(tuple(int(i) for i in block_ids))
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
