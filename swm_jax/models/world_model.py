"""The semantic world model as planners see it: encode once, score many candidates.

Axes: S scenes, N candidates, H actions of a chunk, A action width, K horizons,
Q questions, C answers of the answer set.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float, UInt8

from swm_jax.models.config import ModelConfig
from swm_jax.models.swm import Context, SemanticWorldModel
from swm_jax.models.tokenizer import Tokenizer
from swm_jax.models.types import Observation, QuestionBatch


@struct.dataclass
class VLMWorldModel:
    """A pytree whose leaves are the parameters; the config is static.

    Follows the protocol in `swm_jax.planning` for every layout of the config.

    Attributes:
      params: tree of `img`, `llm` and `action`.
      config: the model's.
      candidates_per_pass: scenes x candidates scored at once; more run in
        sequence, so that memory stays bounded.
    """

    params: Any
    config: ModelConfig = struct.field(pytree_node=False)
    candidates_per_pass: int = struct.field(pytree_node=False, default=128)

    def encode(self, observation: Observation, questions: QuestionBatch) -> Context:
        """Runs images and questions once; their keys serve all candidates."""
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
        horizons: tuple[int, ...],
    ) -> Float[Array, "S N K Q C"]:
        """Logits of the answers, before any normalisation."""
        return self._score(context, actions, horizons, SemanticWorldModel.read_answers)

    def answer_log_probs(
        self,
        context: Context,
        actions: Float[Array, "S N H A"],
        horizons: tuple[int, ...],
        normalise: str = "answers",
    ) -> Float[Array, "S N K Q C"]:
        """Log-probabilities of the answers.

        Args:
          context: from `encode`.
          actions: raw action units.
          horizons: static, each in 0..H; 0 asks about the present.
          normalise: "answers" over the answer set (only its rows of the embedding
            are read), "vocabulary" over all tokens, as published.

        Raises:
          ValueError: a horizon outside 0..H, actions of another width than the
            model's, or an unknown `normalise`.
        """
        if normalise == "vocabulary":
            read = SemanticWorldModel.read_log_probs
            return self._score(context, actions, horizons, read)
        if normalise == "answers":
            return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))
        raise ValueError(
            f"unknown normalise '{normalise}', expected 'answers' or 'vocabulary'"
        )

    def answer(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        actions: Float[np.ndarray, "H A"],
        question: str,
        answers: Sequence[str] = ("no", "yes"),
        tokenizer: Tokenizer | None = None,
    ) -> dict[str, float]:
        """Asks one question about the state after all of `actions`, for a person.

        Args:
          image: RGB, any size.
          actions: raw action units; none at all asks about the present.
          question: in words.
          answers: one-token answers to choose from.
          tokenizer: the model's; None loads the one the config names.

        Returns:
          The probability of each answer, renormalised over `answers`.

        Raises:
          ValueError: actions that are not finite or do not fit the model, words
            that the tokenizer does not know, or a question that is too long.
        """
        c = self.config
        actions = np.asarray(actions, np.float32)
        if not actions.size:
            actions = np.zeros((0, c.action_size), np.float32)
        if not np.isfinite(actions).all():
            raise ValueError("actions must be finite, got NaN or infinity")
        if len(actions) > c.max_horizon:
            raise ValueError(
                f"{len(actions)} actions are more than the model's "
                f"max_horizon={c.max_horizon}"
            )
        tokenizer = tokenizer or Tokenizer.load(c.tokenizer)
        tokenizer.check(c)
        tokens, mask = tokenizer.encode_batch([question], c.max_question_tokens)
        batch = QuestionBatch(
            tokens=tokens[None],
            mask=mask[None],
            type_id=np.zeros((1, 1), np.int32),
            args=np.full((1, 1, 2), -1, np.int32),
            answer_ids=np.array([[[tokenizer.answer_id(a) for a in answers]]]),
        )
        chunk = np.zeros((c.max_horizon, actions.shape[-1]), np.float32)
        chunk[: len(actions)] = actions
        horizon = jnp.array([len(actions)])
        probabilities = _ask(self, np.asarray(image)[None], batch, chunk, horizon)
        return dict(zip(answers, map(float, probabilities)))

    def _apply(self, method: Callable, *args):
        model = SemanticWorldModel(self.config)
        return model.apply({"params": self.params}, *args, method=method)

    def _score(self, context, actions, horizons, read):
        scenes, candidates, count, _ = actions.shape
        horizons = tuple(int(h) for h in horizons)
        if not horizons or min(horizons) < 0 or max(horizons) > count:
            raise ValueError(
                f"horizons {horizons} do not fit a chunk of {count} actions, "
                f"expected values in 0..{count}"
            )
        # Nobody sees actions behind the last horizon.
        actions = actions[:, :, : max(1, max(horizons))]
        ends = jnp.array(horizons)

        def score(actions):
            hidden = self._apply(SemanticWorldModel.imagine, context, actions, ends)
            return self._apply(read, hidden, context.answer_ids)

        size = max(1, self.candidates_per_pass // scenes)
        passes = -(-candidates // size)
        if passes == 1:
            return score(actions)
        size = -(-candidates // passes)  # equal passes, little padding
        padding = passes * size - candidates
        actions = jnp.pad(actions, ((0, 0), (0, padding), (0, 0), (0, 0)))
        chunks = actions.reshape(scenes, passes, size, *actions.shape[2:])
        result = lax.map(score, jnp.moveaxis(chunks, 1, 0))
        result = jnp.moveaxis(result, 0, 1)
        result = result.reshape(scenes, passes * size, *result.shape[3:])
        return result[:, :candidates]


@jax.jit
def _ask(model: VLMWorldModel, image, questions, chunk, horizon):
    context = model.encode(Observation(image=image), questions)
    hidden = model._apply(
        SemanticWorldModel.imagine, context, chunk[None, None], horizon
    )
    logits = model._apply(SemanticWorldModel.read_answers, hidden, context.answer_ids)
    return jax.nn.softmax(logits[0, 0, 0, 0])
