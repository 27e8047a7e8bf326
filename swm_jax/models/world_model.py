"""The VLM as a planner's world model: encode a scene once, score many candidates.

Axes: S scenes, N candidates, H actions of a chunk, A action width, K horizons,
Q questions, C answers of the answer set, M tokens of a written text.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int, PRNGKeyArray, UInt8

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.models import ask
from swm_jax.models.action_scale import ActionScale
from swm_jax.models.answers import Written, answer_set_log_probs, write
from swm_jax.models.backbones.logical_axes import constrain
from swm_jax.models.chunked_scoring import Query, in_passes, pass_of, pass_that_fits
from swm_jax.models.config import ModelConfig
from swm_jax.models.swm import SemanticWorldModel
from swm_jax.models.types import Context, Observation, QuestionBatch

Horizons = tuple[int, ...] | Int[Array, " K"]


class VLMWorldModel(struct.PyTreeNode):
    """Vision-language world model: a pytree of parameters with a static config.

    Implements the `WorldModel` protocol of `swm_jax.planning` for all layouts.

    Attributes:
      params: tree of `img`, `llm` and `action`.
      config: model config.
      candidates_per_pass: scenes x candidates scored in one pass; further passes run in
        sequence, which bounds memory, of gradients too. None derives it from
        `memory_budget`.
      memory_budget: bytes for the activations of one pass; None takes the device's
        free memory at trace time. Set this or `candidates_per_pass` for programs that
        run on several hosts or on another machine than they are traced on.
      action_scale: maps raw actions to those of training; None if they are the same.
    """

    params: Any
    config: ModelConfig = struct.field(pytree_node=False)
    candidates_per_pass: int | None = struct.field(pytree_node=False, default=None)
    memory_budget: int | None = struct.field(pytree_node=False, default=None)
    action_scale: ActionScale | None = None

    @property
    def action_width(self) -> int:
        """A, numbers per raw action."""
        scale = self.action_scale
        return self.config.action_size if scale is None else scale.middle.shape[-1]

    def encode(self, observation: Observation, questions: QuestionBatch) -> Context:
        """Encodes images and questions; the cache is shared by all candidates."""
        return self._apply(
            SemanticWorldModel.encode,
            observation.image,
            questions.tokens,
            questions.mask,
            questions.answer_ids,
        )

    def answer_logits(
        self,
        context: Context,
        actions: Float[Array, "S N H A"],
        horizons: Horizons,
    ) -> Float[Array, "S N K Q C"]:
        """Logits of the answers, not normalised over the answer set.

        For answers of several tokens these are vocabulary log-probabilities.
        """
        if context.answer_ids.ndim == 4:
            return self.answer_log_probs(context, actions, horizons, "vocabulary")
        read, rows = SemanticWorldModel.read_answers, context.answer_ids.shape[-1]
        return self._score(context, actions, horizons, read, rows)

    def answer_log_probs(
        self,
        context: Context,
        actions: Float[Array, "S N H A"],
        horizons: Horizons,
        normalise: str = "answers",
    ) -> Float[Array, "S N K Q C"]:
        """Log-probabilities of the answers.

        Args:
          context: from `encode`.
          actions: raw action units.
          horizons: each in 0..H; 0 asks about the present. A tuple is checked and cuts
            the chunk at its largest horizon; an array (possibly traced) is used as is.
          normalise: "answers": softmax over the answer set; for one-token answers only
            their rows of the embedding are read. "vocabulary": as published, the
            product of the answer tokens' probabilities over the whole vocabulary.

        Raises:
          ValueError: a horizon outside 0..H, actions of another width than the
            model's, an unknown `normalise`, or too little memory for one candidate.
        """
        if normalise == "answers":
            return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))
        if normalise != "vocabulary":
            raise ValueError(
                f"unknown normalise '{normalise}', expected 'answers' or 'vocabulary'"
            )
        if context.answer_ids.ndim == 3:
            read = SemanticWorldModel.read_log_probs
            rows = self.config.vocab_size
            return self._score(context, actions, horizons, read, rows)
        actions, ends = self._up_to(actions, horizons)
        score = lambda context, actions: answer_set_log_probs(
            self.config, self._weights(), context, actions, ends
        )
        replies = math.prod(context.answer_ids.shape[2:])
        return self._in_passes(score, context, ends, actions, reply_tokens=replies)

    def write(
        self,
        context: Context,
        actions: Float[Array, "S N H A"],
        horizons: Horizons,
        length: int | None = None,
        key: PRNGKeyArray | None = None,
        temperature: Float[Array, ""] | float = 1.0,
    ) -> Written:
        """Generates free-text answers.

        Args:
          context: from `encode`; its answer set is ignored.
          actions, horizons: as for `answer_log_probs`.
          length: M, static: maximum tokens of a text, eos included; None takes the
            config's `max_answer_tokens`.
          key: for sampling, split into one key per [S, N, K, Q] entry, so a text is
            independent of the others in the batch; None decodes greedily.
          temperature: of the sampling, above 0.

        Raises:
          ValueError: a length below 1, or as `answer_log_probs`.
        """
        length = self.config.max_answer_tokens if length is None else length
        if length < 1:
            raise ValueError(f"length must be at least 1 token, got {length}")
        actions, ends = self._up_to(actions, horizons)

        def run(context, actions, keys=None):
            model = self.config, self._weights()
            return write(*model, context, actions, ends, length, keys, temperature)

        inputs = [actions]
        if key is not None:
            queries = (*actions.shape[:2], len(ends), context.questions.shape[1])
            inputs.append(prng.split(key, queries))
        more = dict(reply_tokens=length, rows=self.config.vocab_size)
        return self._in_passes(run, context, ends, *inputs, **more)

    def answer(
        self,
        image: UInt8[Array, "h w 3"],
        actions: Float[Array, "H A"] | Sequence[Sequence[float]],
        question: str,
        answers: Sequence[str] | None = ("no", "yes"),
        **options: Any,
    ) -> ask.Answer:
        """Answers one question about the state after all of `actions`.

        Args:
          image: RGB, any size.
          actions: raw action units; an empty list asks about the present.
          question: in words.
          answers: the answer set; None generates a free-text answer.
          **options: of `ask.answer_batch`.

        Returns:
          The most likely answer and its probability.

        Raises:
          ValueError: as `ask.answer_batch`.
        """
        actions = np.asarray(actions, np.float32)
        if not actions.size:
            actions = np.zeros((0, self.action_width), np.float32)
        image, horizons = np.asarray(image)[None], (len(actions),)
        result = ask.answer_batch(
            self, image, actions[None], [[question]], horizons, answers, **options
        )
        return result.at(0, 0, 0)

    def _apply(self, method: Callable, *args):
        model = SemanticWorldModel(self.config)
        return model.apply({"params": self._weights()}, *args, method=method)

    def _weights(self) -> Any:
        """The parameters; on a mesh the embedding's columns are gathered."""
        llm = self.params["llm"]
        # Gather the `fsdp` columns once, outside the planner's loop: the read-out needs
        # whole rows, and XLA would otherwise all-gather them at every iteration.
        table = constrain(llm["embedder"]["input_embedding"], "vocab")
        llm = {**llm, "embedder": {**llm["embedder"], "input_embedding": table}}
        return {**self.params, "llm": llm}

    def _score(self, context, actions, horizons, read, rows):
        actions, ends = self._up_to(actions, horizons)

        def score(context, actions):
            hidden = self._apply(SemanticWorldModel.imagine, context, actions, ends)
            return self._apply(read, hidden, context.answer_ids)

        return self._in_passes(score, context, ends, actions, rows=rows)

    def _up_to(self, actions, horizons) -> tuple[Array, Array]:
        """Scaled actions up to the largest horizon, and the horizons as an array."""
        if self.action_scale is not None:
            actions = self.action_scale(actions)
        return _up_to(actions, horizons)

    def _in_passes(self, score, context, ends, *inputs, **more):
        """Runs `score` on [S, N, ...] inputs (actions first) in passes that fit."""
        scenes, _, count, _ = inputs[0].shape
        asked = context.question_mask.shape
        query = Query(scenes, count, len(ends), *asked[1:], **more)
        if self.candidates_per_pass is None:
            size = pass_that_fits(self.config, query, self.memory_budget)
        elif self.candidates_per_pass < 1:
            raise ValueError(
                "candidates_per_pass must be at least 1, or None to go by memory, got "
                f"{self.candidates_per_pass}"
            )
        else:
            size = pass_of(scenes, self.candidates_per_pass)
        return in_passes(score, size, context, *inputs)


def _up_to(actions, horizons) -> tuple[Array, Array]:
    """Actions up to the largest horizon, and the horizons as an array."""
    if isinstance(horizons, jax.Array):
        return actions, horizons
    count = actions.shape[2]
    horizons = tuple(int(h) for h in horizons)
    if not horizons or min(horizons) < 0 or max(horizons) > count:
        raise ValueError(
            f"horizons {horizons} do not fit a chunk of {count} actions, "
            f"expected values in 0..{count}"
        )
    # Action h - 1 is the last one seen at horizon h. At horizon 0 one (masked) action
    # stays: attention takes a maximum over the keys, which must not be empty.
    return actions[:, :, : max(1, max(horizons))], jnp.array(horizons)
