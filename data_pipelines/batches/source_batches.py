"""Batches of one source: what its questions are answered by decides how they are drawn.

Axes: B images, R queries.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import Int

from data_pipelines.batches.query_types import LABELLED
from data_pipelines.label.sampler import LabelSampler
from data_pipelines.saqa.batch import SaqaBatch, SaqaConfig
from data_pipelines.saqa.horizons import Horizons
from data_pipelines.saqa.sampler import SaqaSampler
from data_pipelines.saqa.slots import Episodes, language_of
from data_pipelines.saqa.tokens import AnswerTokens, QuestionTokens
from data_pipelines.schema.arrays import EpisodeArrays
from data_pipelines.schema.domains import get_domain
from data_pipelines.schema.episode import DataError
from swm_jax import worlds
from swm_jax.choices import known
from swm_jax.models import ActionScale, ModelConfig, PlaceTargets, Tokenizer, TrainBatch

PLANE = 2  # axes of the places that training regresses


@dataclasses.dataclass(frozen=True)
class Member:
    """Batches of one source, each a pure function of (seed, step, images).

    Attributes:
      episodes: of one split.
      draw: (seed, step, images) -> what is asked of which starts, all rows.
      finish: adds pixels and tokens to some rows of it.
    """

    episodes: EpisodeArrays
    draw: Callable[[int, int, int], Any]
    finish: Callable[[Any], TrainBatch]

    def batch(
        self, seed: int, step: int, images: int, rows: Int[np.ndarray, " n"] | None
    ) -> TrainBatch:
        """Those rows of a step's batch; None is all."""
        drawn = self.draw(seed, step, images)
        if rows is not None:
            drawn = jax.tree.map(lambda x: x[rows], drawn)
        return self.finish(drawn)

    def starts(self, seed: int, step: int, images: int) -> list[dict[str, int]]:
        """Which start every row of a step's batch is: episode and frame."""
        drawn = self.draw(seed, step, images)
        numbers = self.episodes.episode[drawn.episode]
        return [
            {"episode": int(episode), "t": int(t)}
            for episode, t in zip(numbers, drawn.t)
        ]


def make_member(
    episodes: EpisodeArrays,
    config: ml_collections.ConfigDict,
    tokenizer: Tokenizer,
    model_config: ModelConfig,
    scale: ActionScale | None,
    split: str,
) -> Member:
    """Measures the sampler's weights, tokenises all questions.

    Raises:
      DataError: sizes that cannot work, or too little data.
    """
    longest = int(episodes.length.max())
    horizon, name = model_config.max_horizon, f"{len(episodes)} {split} episodes"
    if longest < horizon:
        raise DataError(
            f"the longest of {name} has {longest} actions, "
            f"the model looks {horizon} ahead: too little data"
        )
    eos, length = config.get("answer_eos", False), model_config.max_question_tokens
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
        types = named_types(config, episodes)
        sampler = SaqaSampler(episodes, saqa_config(horizon, types))
        # Measures its weights now, before threads share the sampler.
        sampler.balance(*shape)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    blocks = np.unique(episodes.block_id)
    words = QuestionTokens.make(
        tokenizer, blocks, length, sampler.language, sampler.config.types
    )
    answers = AnswerTokens.make(tokenizer, eos, sampler.types)

    def with_frames(drawn):
        drawn = drawn.replace(actions=scaled(drawn.actions))
        return to_train_batch(drawn, episodes, words, answers)

    draw = lambda seed, step, images: sampler.sample_batch(seed, step, images, *shape)
    return Member(episodes, draw, with_frames)


def named_types(
    config: ml_collections.ConfigDict, episodes: Episodes
) -> tuple[str, ...] | None:
    """Those of `config.question_types` that the episodes' world has.

    Returns:
      None if none of them is named: the types that are asked by default.

    Raises:
      ValueError: a type that no world has.
    """
    names = tuple(config.get("question_types", None) or ())
    every = [kind.name for kind in worlds.question_types().values()]
    own = language_of(episodes).by_name
    return tuple(x for x in names if known("question type", x, every) in own) or None


def saqa_config(max_horizon: int, types: tuple[str, ...] | None = None) -> SaqaConfig:
    """The sampler's settings for a model that looks this many steps ahead.

    Args:
      max_horizon: of the model.
      types: names of the question types; None for those that are asked by default.
    """
    if max_horizon == Horizons().longest:
        return SaqaConfig(types=types)
    ends = sorted({0, *(max(1, max_horizon // k) for k in (4, 2, 1))})
    return SaqaConfig(
        types=types,
        horizons=Horizons(
            longest=max_horizon,
            ends=tuple(ends),
            shares=(0.2, *[0.8 / (len(ends) - 1)] * (len(ends) - 1)),
            planner=tuple(sorted({max(1, max_horizon // 2), max_horizon})),
        ),
    )


def to_train_batch(
    drawn: SaqaBatch,
    episodes: EpisodeArrays,
    words: QuestionTokens,
    answers: AnswerTokens,
) -> TrainBatch:
    """Adds pixels and tokens to what the sampler drew."""
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
