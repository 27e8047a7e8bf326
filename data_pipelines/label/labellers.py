"""Labellers: exact predicates on states, or models that answer from frames.

A labeller answers n questions about n pairs of frames, with a confidence each:

    predicates   exact, for domains with a scene
    vqa          a vision-language model that sees the later frame alone, with a
                 question in the present tense and no actions
    a function   `(images, questions) -> (answers, confidences)`, of the user

A model that sees the later frame alone cannot compare it with the first, so it gets
questions about states only ("Is the peg touching the red moon?", in contrast to "Did
the peg move closer to the red moon?").

Axis: n queries.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines.batches.query_types import known_questions
from data_pipelines.schema.arrays import EpisodeArrays
from data_pipelines.schema.domains import get_domain
from data_pipelines.schema.episode import DataError
from swm_jax import worlds
from swm_jax.questions import YES_NO

_BATCH = 32  # frames per call, a fixed shape for a single compilation


@runtime_checkable
class Labeller(Protocol):
    """Interface: answers to questions about later frames of stored episodes.

    Attributes:
      name: for reports.
      sees_change: whether it can compare the later frame with the first.
    """

    name: str
    sees_change: bool

    def __call__(
        self,
        episodes: EpisodeArrays,
        episode: Int[np.ndarray, " n"],
        t: Int[np.ndarray, " n"],
        horizon: Int[np.ndarray, " n"],
        questions: Sequence[str],
    ) -> tuple[list[str], Float[np.ndarray, " n"]]:
        """Answers, and their confidences in 0..1."""
        ...


class PredicateLabeller:
    """Labeller with exact answers, from states.

    Raises:
      DataError: when called on a domain without a scene, or with a question outside
        the domain's grammar.
    """

    name, sees_change = "predicates", True

    def __call__(self, episodes, episode, t, horizon, questions):
        """See `Labeller`."""
        if get_domain(episodes.domain).scene is None:
            raise DataError(
                f"domain '{episodes.domain}' has no predicates: take --labeller=vqa"
            )
        language = worlds.language(episodes.domain)
        try:
            asked = [language.parse(text) for text in questions]
        except ValueError as error:
            raise DataError(str(error)) from error
        now = episodes.scene(np.asarray(episode), np.asarray(t))
        later = episodes.scene(np.asarray(episode), np.asarray(t) + horizon)
        kind = np.array([question.type_id for question in asked], np.int32)
        args = np.array([question.args for question in asked], np.int32)
        margin = np.asarray(language.margin(kind, args, now, later))
        if np.isnan(margin).any():
            text = questions[int(np.flatnonzero(np.isnan(margin))[0])]
            raise DataError(f"{text!r} asks about something that is not in the scene")
        index = language.index(kind, margin)
        answers = [question.answers[i] for question, i in zip(asked, index)]
        return answers, np.ones(len(asked), np.float32)


class FrameLabeller:
    """Labeller from a function of frames and questions."""

    sees_change = False

    def __init__(
        self,
        answer: Callable[
            [UInt8[np.ndarray, "n h w 3"], Sequence[str]],
            tuple[Sequence[str], Sequence[float]],
        ],
        name: str = "function",
    ):
        """`answer(images, questions)` gives as many answers and confidences."""
        self._answer, self.name = answer, name

    def __call__(self, episodes, episode, t, horizon, questions):
        """See `Labeller`."""
        later = np.asarray(t) + np.asarray(horizon)
        answers, confidences = [], []
        for at in range(0, len(questions), _BATCH):
            part = slice(at, at + _BATCH)
            images = episodes.image(np.asarray(episode)[part], later[part])
            said, sure = self._answer(images, list(questions[part]))
            if len(said) != len(images) or len(sure) != len(images):
                raise DataError(
                    f"labeller '{self.name}' gave {len(said)} answers and {len(sure)} "
                    f"confidences to {len(images)} questions"
                )
            answers += map(str, said)
            confidences.append(np.asarray(sure, np.float32))
        return answers, np.concatenate(confidences)


def vqa_labeller(
    world_model: Any,
    tokenizer: Any,
    answers: Sequence[str] | None = YES_NO.answers,
    prompt: str = "{question}",
    name: str = "vqa",
) -> FrameLabeller:
    """A vision-language model of ours as a labeller.

    Args:
      world_model: a `VLMWorldModel`; called without actions.
      tokenizer: of the model.
      answers: the choices for free questions; questions of the worlds' types have
        answer sets of their own. None samples free text for all questions.
      prompt: template around the question; PaliGemma's mixtures were trained with
        "answer en {question}".
      name: for reports.
    """
    from swm_jax.models import answer_batch

    def answer(images, questions):
        offered = [answers] * len(questions)
        if answers is not None:
            found = map(known_questions, questions)
            offered = [q[0].answers if q else answers for q in found]
        said, sure = np.empty(len(questions), object), np.zeros(len(questions))
        for words in dict.fromkeys(offered):
            rows = np.flatnonzero([each == words for each in offered])
            texts = [questions[row] for row in rows]
            said[rows], sure[rows] = choose(images[rows], texts, words)
        return list(said), list(sure)

    def choose(images, questions, words):
        count = len(questions)
        full = np.resize(np.arange(count), _BATCH)  # one shape, one compilation
        told = answer_batch(
            world_model,
            images[full],
            np.zeros((_BATCH, 0, world_model.action_width), np.float32),
            [[prompt.format(question=questions[i])] for i in full],
            (0,),
            words,
            tokenizer=tokenizer,
        )
        return told.texts[:count, 0, 0], told.probabilities[:count, 0, 0]

    return FrameLabeller(answer, name)


def load_labeller(
    kind: str, checkpoint: str | None = None, prompt: str = "{question}"
) -> Labeller:
    """A labeller by name: "predicates", "vqa", or "module:function".

    Raises:
      DataError: an unknown name, or a checkpoint that cannot be read.
    """
    if kind == "predicates":
        return PredicateLabeller()
    if kind == "vqa":
        from swm_jax.checkpoints import CheckpointError, load_model

        try:
            model = load_model(checkpoint)
        except (CheckpointError, ValueError, OSError) as error:
            raise DataError(f"the labeller's checkpoint: {error}") from error
        name = f"vqa {checkpoint or 'shipped checkpoint'}"
        world = model.world_model_for(None)
        return vqa_labeller(world, model.tokenizer, prompt=prompt, name=name)
    module, _, function = kind.partition(":")
    try:
        return FrameLabeller(getattr(importlib.import_module(module), function), kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"labeller '{kind}' cannot be loaded ({error}), expected predicates, vqa "
            "or module:function"
        ) from error


def asks_about_change(question: str) -> bool:
    """Whether the text parses as a question about a change, in any world."""
    return any(found.kind.about_change for found in known_questions(question))
