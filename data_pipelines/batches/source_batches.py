"""Batches of one source of a mixture.

Answers come from exact predicates where the source has scenes, and from stored labels
elsewhere.

Axes: B images, R queries.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from data_pipelines.batches.config import Data
from data_pipelines.batches.query_types import LABELLED
from data_pipelines.label.sampler import LabelSampler
from data_pipelines.saqa.batch import PLANE, SaqaBatch
from data_pipelines.saqa.horizons import horizons_of
from data_pipelines.saqa.sampler import SaqaSampler
from data_pipelines.saqa.tokens import AnswerTokens, QuestionTokens
from data_pipelines.schema.arrays import EpisodeArrays
from data_pipelines.schema.domains import get_domain
from data_pipelines.schema.episode import DataError
from swm_jax.models import ActionScale, ModelConfig, PlaceTargets, Tokenizer, TrainBatch


@dataclasses.dataclass(frozen=True)
class Member:
    """Batches of one source, each a pure function of (seed, step, images).

    Attributes:
      episodes: of one split.
      draw: (seed, step, images) -> starts, questions and answers of all rows.
      finish: adds pixels and tokens to some of these rows.
    """

    episodes: EpisodeArrays
    draw: Callable[[int, int, int], Any]
    finish: Callable[[Any], TrainBatch]

    def batch(
        self, seed: int, step: int, images: int, rows: Int[np.ndarray, " n"] | None
    ) -> TrainBatch:
        """Rows `rows` of a step's batch; None for all."""
        drawn = self.draw(seed, step, images)
        if rows is not None:
            drawn = jax.tree.map(lambda x: x[rows], drawn)
        return self.finish(drawn)

    def starts(self, seed: int, step: int, images: int) -> list[dict[str, int]]:
        """Start of every row of a step's batch: numbers of episode and frame."""
        drawn = self.draw(seed, step, images)
        numbers = self.episodes.episode[drawn.episode]
        return [
            {"episode": int(episode), "t": int(t)}
            for episode, t in zip(numbers, drawn.t)
        ]


def make_member(
    episodes: EpisodeArrays,
    config: Data,
    tokenizer: Tokenizer,
    model_config: ModelConfig,
    scale: ActionScale | None,
    split: str,
) -> Member:
    """Batches of a source; measures the sampler's weights, tokenises all questions.

    Raises:
      DataError: inconsistent sizes, or too little data.
    """
    longest = int(episodes.length.max())
    horizon, name = model_config.max_horizon, f"{len(episodes)} {split} episodes"
    if longest < horizon:
        raise DataError(
            f"the longest of {name} has {longest} actions, "
            f"the model looks {horizon} ahead: too little data"
        )
    eos, length = config.answer_eos, model_config.max_question_tokens
    scaled = (lambda actions: actions) if scale is None else scale
    shape = config.questions, config.queries
    if get_domain(episodes.domain).scene is None:
        labelled = LabelSampler(
            episodes, tokenizer, length, horizon, other_type=LABELLED, eos=eos
        )

        def with_labels(drawn):
            actions = episodes.chunk(drawn.episode, drawn.t, horizon)
            return labelled.batch(drawn, config.questions, scaled(actions))

        draw = lambda seed, step, images: labelled.draw(seed, step, images, *shape)
        return Member(episodes, draw, with_labels)
    try:
        horizons = horizons_of(horizon, config.saqa.buckets)
        sampler = SaqaSampler(episodes, config.saqa, horizons)
        # Fill the cache of weights now, before threads share the sampler.
        sampler.balance(*shape)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    blocks = np.unique(episodes.block_id)
    words = QuestionTokens.make(
        tokenizer, blocks, length, sampler.language, sampler.named
    )
    answers = AnswerTokens.make(tokenizer, eos, sampler.types)

    def with_frames(drawn):
        drawn = drawn.replace(actions=scaled(drawn.actions))
        return to_train_batch(drawn, episodes, words, answers)

    draw = lambda seed, step, images: sampler.sample_batch(seed, step, images, *shape)
    return Member(episodes, draw, with_frames)


def to_train_batch(
    drawn: SaqaBatch,
    episodes: EpisodeArrays,
    words: QuestionTokens,
    answers: AnswerTokens,
) -> TrainBatch:
    """Training batch of a sampler's draw: adds pixels, tokens and place targets."""
    tokens, mask = words(drawn.type_id, drawn.args, drawn.phrasing)
    answer_tokens, answer_mask = answers(
        drawn.query_type, drawn.query_answer, drawn.query_valid
    )
    places = None
    if drawn.language.axes == PLANE:
        args = np.take_along_axis(drawn.args, drawn.query_question[..., None], 1)
        later = drawn.t[:, None] + drawn.query_horizon
        scene = episodes.scene(drawn.episode[:, None], later)
        place, has = drawn.language.places(drawn.query_type, args, scene)
        places = PlaceTargets(mask=has & drawn.query_valid[..., None], place=place)
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
        places=places,
    )
