"""Batched question answering in words: text in, text and probabilities out.

One call answers every question of every scene at every horizon in one jitted pass over
shared keys. Tokenisation happens on the host. Chunks are padded to `max_horizon` and
horizons are traced, so other numbers of actions do not recompile.

Axes: S scenes, h w pixels, H actions, A action width, K horizons, Q questions,
C answers of the answer set, L tokens of a padded answer.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray, UInt8

from swm_jax.arrays import Array
from swm_jax.models.tokenizer import Tokenizer, Tokenizes
from swm_jax.models.types import MAX_ARGS, PAD_TOKEN, Observation, QuestionBatch


@dataclasses.dataclass(frozen=True)
class Answer:
    """Answer to one query.

    Attributes:
      text: the most likely answer of the set, or the generated text.
      probability: its probability.
      alternatives: probability of each answer of the set, in order; for a generated
        text only its own.
      complete: False for a generated text cut off before eos.
    """

    text: str
    probability: float
    alternatives: dict[str, float]
    complete: bool = True


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to a batch of queries.

    Attributes:
      texts: str[S, K, Q], the most likely answers, or generated texts.
      probabilities: float32[S, K, Q], of those.
      complete: bool[S, K, Q], False for generated texts that were cut off.
      choices: the C answers of the set; None for generated texts.
      choice_probabilities: float32[S, K, Q, C]; None for generated texts.
    """

    texts: np.ndarray
    probabilities: Float[np.ndarray, "S K Q"]
    complete: np.ndarray
    choices: tuple[str, ...] | None = None
    choice_probabilities: Float[np.ndarray, "S K Q C"] | None = None

    def at(self, scene: int, horizon: int, question: int) -> Answer:
        """The answer to one query."""
        i = scene, horizon, question
        text, probability = str(self.texts[i]), float(self.probabilities[i])
        alternatives = {text: probability}
        if self.choices is not None and self.choice_probabilities is not None:
            each = map(float, self.choice_probabilities[i])
            alternatives = dict(zip(self.choices, each))
        return Answer(text, probability, alternatives, bool(self.complete[i]))


def answer_batch(
    model,
    images: UInt8[Array, "S h w 3"],
    actions: Float[Array, "S H A"],
    questions: Sequence[Sequence[str]],
    horizons: Sequence[int],
    answers: Sequence[str] | None = ("no", "yes"),
    *,
    normalise: str = "answers",
    end: bool | None = None,
    length: int | None = None,
    key: PRNGKeyArray | None = None,
    temperature: float = 1.0,
    tokenizer: Tokenizer | None = None,
) -> Answers:
    """Answers Q questions about each of S scenes at K horizons.

    Args:
      model: a `VLMWorldModel`.
      images: RGB, any size.
      actions: raw action units, H at most the model's `max_horizon`.
      questions: S lists of Q questions, in words.
      horizons: K numbers of executed actions, each in 0..H.
      answers: the answer set, each of one or more tokens; None generates free text.
      normalise: "answers" normalises over `answers`, "vocabulary" over all texts.
      end: whether answers of the set end with eos; None: if any has several tokens
        (otherwise "red" would include "red moon"). Models trained on one-token answers
        may not have learnt eos.
      length: maximum tokens of a generated text, eos included; None takes the
        config's `max_answer_tokens`.
      key: for sampling generated texts; None decodes greedily.
      temperature: of the sampling, above 0.
      tokenizer: the model's; None loads the one named in the config.

    Raises:
      ValueError: mismatching shapes, non-finite actions, horizons out of range, words
        unknown to the tokenizer, questions that are too long, or answers that are
        empty or duplicated.
    """
    c = model.config
    images, actions = np.asarray(images), np.asarray(actions, np.float32)
    horizons = tuple(int(h) for h in horizons)
    width = model.action_width
    _check(c, width, images, actions, questions, horizons)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    tokenizer = tokenizer or Tokenizer.load(c.tokenizer)
    tokenizer.check(c)
    shape = len(images), len(questions[0])
    texts = [text for each in questions for text in each]
    tokens, mask = tokenizer.encode_batch(texts, c.max_question_tokens)
    ids = np.zeros((1, 1), np.int32)
    if answers is not None:
        ids = encode_answers(tokenizer, answers, end)
    # Answers of one token each take the cheaper path without a token axis.
    ids = ids if ids.shape[1] > 1 else ids[:, 0]
    batch = QuestionBatch(
        tokens=tokens.reshape(*shape, -1),
        mask=mask.reshape(*shape, -1),
        type_id=np.zeros(shape, np.int32),
        args=np.full((*shape, MAX_ARGS), -1, np.int32),
        answer_ids=np.broadcast_to(ids, (*shape, *ids.shape)),
    )
    # Padded to a fixed length against recompilation; horizons mask the padding.
    chunk = np.zeros((len(images), 1, c.max_horizon, width), np.float32)
    chunk[:, 0, : actions.shape[1]] = actions
    inputs = model, Observation(image=images), batch, chunk
    ends = np.asarray(horizons, np.int32)
    if answers is not None:
        log_probs = read_answers(*inputs, ends, normalise=normalise)[:, 0]
        chances = np.exp(np.asarray(log_probs))
        best = chances.argmax(-1)
        return Answers(
            texts=np.array(answers, object)[best],
            probabilities=chances.max(-1),
            complete=np.ones(best.shape, bool),
            choices=tuple(answers),
            choice_probabilities=chances,
        )
    length = c.max_answer_tokens if length is None else length
    written = jax.device_get(_write(*inputs, ends, key, temperature, length=length))
    said = np.empty(written.tokens.shape[:-1], object)
    for i in np.ndindex(said.shape):
        said[i] = tokenizer.decode(written.tokens[i])
    return Answers(said, np.exp(written.log_probs), written.complete)


def encode_answers(
    tokenizer: Tokenizes, answers: Sequence[str], end: bool | None = None
) -> Int[np.ndarray, "C L"]:
    """Token ids of the answers of a set, padded right with `PAD_TOKEN`.

    Args:
      tokenizer: the model's.
      answers: in words.
      end: whether each ends with eos; None: if any has several tokens (otherwise the
        probability of "red" would include that of "red moon").

    Raises:
      ValueError: no answers, an empty one, two with the same tokens, or words unknown
        to the tokenizer.
    """
    rows = [tokenizer.encode(answer) for answer in answers]
    if not rows:
        raise ValueError("an answer set needs at least one answer, got none")
    seen: dict[tuple[int, ...], str] = {}
    for answer, row in zip(answers, rows):
        if not row:
            raise ValueError(f"answer {answer!r} has no token")
        if tuple(row) in seen:
            raise ValueError(
                f"answers {seen[tuple(row)]!r} and {answer!r} are the same tokens"
            )
        seen[tuple(row)] = answer
    if end is None:
        end = max(map(len, rows)) > 1
    if end:
        rows = [[*row, tokenizer.eos_id] for row in rows]
    ids = np.full((len(rows), max(map(len, rows))), PAD_TOKEN, np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids


def read_answers(
    model: Any,
    observation: Observation,
    questions: QuestionBatch,
    actions: Float[Array, "S N H A"],
    horizons: tuple[int, ...] | Int[Array, " K"],
    normalise: str | None = None,
) -> Float[Array, "S N K Q C"]:
    """Encodes scenes and questions and reads the answers, in one jitted program.

    Args:
      model: any world model.
      observation, questions, actions: its inputs.
      horizons: numbers of executed actions; a tuple is static, an array is traced, so
        other values of the same length do not recompile.
      normalise: log-probabilities over the "answers" or the whole "vocabulary"; None
        gives logits.
    """
    read = _read if isinstance(horizons, tuple) else _read_at
    return read(model, observation, questions, actions, horizons, normalise)


def _answers_to(model, observation, questions, actions, horizons, normalise):
    context = model.encode(observation, questions)
    if not isinstance(horizons, tuple):
        horizons = jnp.asarray(horizons)
    if normalise is None:
        return model.answer_logits(context, actions, horizons)
    return model.answer_log_probs(context, actions, horizons, normalise)


_read = jax.jit(_answers_to, static_argnames=("horizons", "normalise"))
_read_at = jax.jit(_answers_to, static_argnames="normalise")


@functools.partial(jax.jit, static_argnames="length")
def _write(model, observation, questions, chunk, ends, key, temperature, length: int):
    context, ends = model.encode(observation, questions), jnp.asarray(ends)
    written = model.write(context, chunk, ends, length, key, temperature)
    return jax.tree.map(lambda x: x[:, 0], written)


def _check(config, width, images, actions, questions, horizons) -> None:
    """Raises a ValueError if the inputs fit neither one another nor the model."""
    if actions.ndim != 3 or actions.shape[-1] != width:
        raise ValueError(
            f"actions have shape {list(actions.shape)}, expected [scenes, count, "
            f"action_size={width}]"
        )
    if not np.isfinite(actions).all():
        raise ValueError("actions must be finite, got NaN or infinity")
    count = actions.shape[1]
    if count > config.max_horizon:
        raise ValueError(
            f"{count} actions are more than the model's "
            f"max_horizon={config.max_horizon}"
        )
    if not horizons or min(horizons) < 0 or max(horizons) > count:
        raise ValueError(
            f"horizons {horizons} do not fit {count} actions, "
            f"expected values in 0..{count}"
        )
    sizes = len(images), len(actions), len(questions)
    if len(set(sizes)) > 1 or not sizes[0]:
        raise ValueError(
            f"{sizes[0]} images, {sizes[1]} chunks of actions and {sizes[2]} lists of "
            "questions: expected one of each per scene"
        )
    if isinstance(questions, str) or any(isinstance(each, str) for each in questions):
        raise ValueError("questions must be a list of questions per scene, got a text")
    asked = sorted({len(each) for each in questions})
    if len(asked) > 1 or not asked[0]:
        raise ValueError(
            f"scenes have {' and '.join(map(str, asked))} questions, expected the "
            "same number, at least one, for all"
        )
