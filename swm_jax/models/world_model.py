"""The semantic world model as planners see it: encode once, score many candidates.

Axes: S scenes, N candidates, H actions of a chunk, A action width, K horizons,
Q questions, C answers of the answer set, M tokens of a written text.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from swm_jax.models import ask
from swm_jax.models.action_scale import ActionScale
from swm_jax.models.answers import Written, answer_set_log_probs, write
from swm_jax.models.config import ModelConfig
from swm_jax.models.swm import Context, SemanticWorldModel
from swm_jax.models.types import Observation, QuestionBatch

Horizons = tuple[int, ...] | Int[Array, " K"]


@struct.dataclass
class VLMWorldModel:
    """A pytree whose leaves are the parameters; the config is static.

    Follows the protocol in `swm_jax.planning` for every layout of the config.

    Attributes:
      params: tree of `img`, `llm` and `action`.
      config: the model's.
      candidates_per_pass: scenes x candidates scored at once; more run in
        sequence, so that memory stays bounded.
      action_scale: from raw actions to those it was trained on; None if they are the
        same.
    """

    params: Any
    config: ModelConfig = struct.field(pytree_node=False)
    candidates_per_pass: int = struct.field(pytree_node=False, default=128)
    action_scale: ActionScale | None = None

    @property
    def action_width(self) -> int:
        """A, numbers per raw action."""
        scale = self.action_scale
        return self.config.action_size if scale is None else scale.middle.shape[-1]

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
        horizons: Horizons,
    ) -> Float[Array, "S N K Q C"]:
        """Logits of the answers, before they are normalised over the answer set.

        Answers of several tokens have their log-probabilities for logits.
        """
        if context.answer_ids.ndim == 4:
            return self.answer_log_probs(context, actions, horizons, "vocabulary")
        read = SemanticWorldModel.read_answers
        return self._score(context, actions, horizons, read)

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
          horizons: each in 0..H; 0 asks about the present. An array, which may be
            traced, is not checked and runs all of the chunk.
          normalise: "answers" over the answer set (of answers of one token, only
            their rows of the embedding are read), "vocabulary" over all tokens, as
            published: the product of the probabilities of an answer's tokens.

        Raises:
          ValueError: a horizon outside 0..H, actions of another width than the
            model's, or an unknown `normalise`.
        """
        if normalise == "answers":
            return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))
        if normalise != "vocabulary":
            raise ValueError(
                f"unknown normalise '{normalise}', expected 'answers' or 'vocabulary'"
            )
        if context.answer_ids.ndim == 3:
            read = SemanticWorldModel.read_log_probs
            return self._score(context, actions, horizons, read)
        actions, ends = self._up_to(actions, horizons)
        score = lambda actions: answer_set_log_probs(
            self.config, self.params, context, actions, ends
        )
        return self._in_passes(score, actions)

    def write(
        self,
        context: Context,
        actions: Float[Array, "S N H A"],
        horizons: Horizons,
        length: int | None = None,
        key: PRNGKeyArray | None = None,
        temperature: Float[Array, ""] | float = 1.0,
    ) -> Written:
        """Answers in the model's own words.

        Args:
          context: from `encode`; its answer set does not matter.
          actions, horizons: as for `answer_log_probs`.
          length: M, static: most tokens of a text, eos included; None takes
            the config's `max_answer_tokens`.
          key: texts are sampled with it, and depend on it, their own scene, candidate
            and question and their place in the batch alone. None is greedy.
          temperature: of the sampling, above 0.

        Raises:
          ValueError: a length below 1, or as `answer_log_probs`.
        """
        length = self.config.max_answer_tokens if length is None else length
        if length < 1:
            raise ValueError(f"length must be at least 1 token, got {length}")
        actions, ends = self._up_to(actions, horizons)

        def run(actions, keys=None):
            model = self.config, self.params
            return write(*model, context, actions, ends, length, keys, temperature)

        if key is None:
            return self._in_passes(run, actions)
        queries = (*actions.shape[:2], len(ends), context.questions.shape[1])
        return self._in_passes(run, actions, jax.random.split(key, queries))

    def answer(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        actions: Float[np.ndarray, "H A"],
        question: str,
        answers: Sequence[str] | None = ("no", "yes"),
        **options: Any,
    ) -> ask.Answer:
        """Asks one question about the state after all of `actions`, for a person.

        Args:
          image: RGB, any size.
          actions: raw action units; none at all asks about the present.
          question: in words.
          answers: what to choose from; None lets the model answer in its own words.
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
        return model.apply({"params": self.params}, *args, method=method)

    def _score(self, context, actions, horizons, read):
        actions, ends = self._up_to(actions, horizons)

        def score(actions):
            hidden = self._apply(SemanticWorldModel.imagine, context, actions, ends)
            return self._apply(read, hidden, context.answer_ids)

        return self._in_passes(score, actions)

    def _up_to(self, actions, horizons) -> tuple[Array, Array]:
        """Scaled actions that somebody sees, and the horizons as an array."""
        if self.action_scale is not None:
            actions = self.action_scale(actions)
        return _up_to(actions, horizons)

    def _in_passes(self, score: Callable, *inputs: Array) -> Any:
        """Runs [S, N, ...] inputs in parts of the candidates, one after the other."""
        scenes, candidates = inputs[0].shape[:2]
        size = max(1, self.candidates_per_pass // scenes)
        passes = -(-candidates // size)
        if passes == 1:
            return score(*inputs)
        size = -(-candidates // passes)  # equal passes, little padding
        padding = passes * size - candidates

        def split(x):
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):  # there is no zero key
                x = jnp.concatenate([x, x[:, :padding]], 1)
            else:
                x = jnp.pad(x, ((0, 0), (0, padding), *((0, 0),) * (x.ndim - 2)))
            x = x.reshape(scenes, passes, size, *x.shape[2:])
            return jnp.moveaxis(x, 1, 0)

        def join(x):
            x = jnp.moveaxis(x, 0, 1)
            return x.reshape(scenes, passes * size, *x.shape[3:])[:, :candidates]

        chunks = tuple(map(split, inputs))
        return jax.tree.map(join, lax.map(lambda part: score(*part), chunks))


def _up_to(actions, horizons) -> tuple[Array, Array]:
    """The actions that somebody sees, and the horizons as an array."""
    if isinstance(horizons, jax.Array):
        return actions, horizons
    count = actions.shape[2]
    horizons = tuple(int(h) for h in horizons)
    if not horizons or min(horizons) < 0 or max(horizons) > count:
        raise ValueError(
            f"horizons {horizons} do not fit a chunk of {count} actions, "
            f"expected values in 0..{count}"
        )
    return actions[:, :, : max(1, max(horizons))], jnp.array(horizons)
