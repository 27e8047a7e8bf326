"""The semantic world model: image tower, action projector, decoder, answers.

One module serves all layouts (see `layout`) and both modes: a single teacher-forced
pass in training, with many queries per image; for planning `encode`, once per scene,
and `imagine`, which runs the candidates on the cached keys and values.

Axes: B images or S scenes, Q questions, T question tokens, R queries, L answer
tokens, H actions, A action width, N candidates, K horizons, P patches, W decoder
width, V vocabulary, C answers of the answer set.
"""

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Bool, Float, Int, PRNGKeyArray, UInt8

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.models import layout as layouts
from swm_jax.models.backbones.attention import KeyValues
from swm_jax.models.backbones.registry import BACKBONES
from swm_jax.models.backbones.weights import Params, Weight
from swm_jax.models.config import ModelConfig
from swm_jax.models.preprocess import preprocess_image
from swm_jax.models.types import TrainBatch


class Outputs(struct.PyTreeNode):
    """Outputs of a training forward pass.

    Attributes:
      logits: float32[B, R, L, V], of every answer position.
      answer_features: float[B, R, W], final hidden states at the newline, which
        predict the first answer token.
      patch_features: float[B, P, D], image tower features after its last norm.
      question_features: float[B, R, T, W], hidden states of every query's question
        tokens before layer depth // 2; None unless the batch has `mentions`.
    """

    logits: Float[Array, "B R L V"]
    answer_features: Float[Array, "B R W"]
    patch_features: Float[Array, "B P D"]
    question_features: Float[Array, "B R T W"] | None = None


class Context(struct.PyTreeNode):
    """Per-scene cache: keys and values of image and questions, shared by candidates.

    Attributes:
      image: float[S, P, W], image tokens; only in the `full` layout, which has no
        cache, otherwise None.
      questions: float[S, Q, T, W], embedded questions.
      question_mask: bool[S, Q, T].
      answer_ids: int32[S, Q, C], or int32[S, Q, C, L] (see `QuestionBatch`).
      cache: keys and values by segment, with a leading depth axis: "image" and, in
        the `branched` layout, "question".
    """

    image: Float[Array, "S P W"] | None
    questions: Float[Array, "S Q T W"]
    question_mask: Bool[Array, "S Q T"]
    answer_ids: Int[Array, "S Q C *L"]
    cache: KeyValues

    def share(self, index: Int[Array, ""], shares: int) -> "Context":
        """Every `shares`-th scene from scene `index` on; `shares` divides S."""

        # Strided rather than contiguous: on a mesh that splits the scenes, every share
        # then has scenes of every device.
        def pick(x, axis):
            x = x.reshape(*x.shape[:axis], -1, shares, *x.shape[axis + 1 :])
            return lax.dynamic_index_in_dim(x, index, axis + 1, keepdims=False)

        cache = jax.tree.map(lambda x: pick(x, 1), self.cache)  # depth comes first
        rest = jax.tree.map(lambda x: pick(x, 0), self.replace(cache={}))
        return rest.replace(cache=cache)


def action_weights(c: ModelConfig) -> dict[str, Weight]:
    """Parameter declarations of the action projector, a linear layer A -> W."""
    kernel, bias = map(nn.initializers.normal, (c.action_init_std, c.action_bias_std))
    return {
        "kernel": Weight((c.action_size, c.width), init=kernel),
        "bias": Weight((c.width,), init=bias),
    }


class SemanticWorldModel(nn.Module):
    """VLM that answers questions about the state after the first h actions."""

    config: ModelConfig

    if TYPE_CHECKING:
        # Flax annotates a tuple with mutated collections; these modules mutate none, so
        # `apply` returns the result of the method alone.
        def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any: ...

    def setup(self):
        c = self.config
        backbone = BACKBONES[c.backbone]
        self.img = backbone.tower(c)
        self.llm = backbone.decoder(c)
        self.action = Params(action_weights(c))

    def init_params(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Fresh parameters: a tree with `img`, `llm` and `action`."""
        with prng.fixed():
            return dict(self.init(key, method=SemanticWorldModel._touch)["params"])

    def param_shapes(self) -> dict[str, Any]:
        """Shape structs of `init_params`."""
        return dict(jax.eval_shape(self.init_params, prng.key(0)))

    def _touch(self):
        c = self.config
        self.img(jnp.zeros((1, c.image_size, c.image_size, 3)))
        token = self.llm.embed(jnp.zeros((1, 1, 1), jnp.int32))
        self.llm(layouts.full_layout("brm", [(token, None)], 1))
        self.action()

    def __call__(self, batch: TrainBatch) -> Outputs:
        """Training forward pass: logits of all answer tokens (teacher forcing)."""
        image, features = self.embed_image(batch.image)
        full = self.config.layout == "full"
        asked = "answer" if full else "question"
        middle = (asked,) if batch.mentions is not None else ()
        out = self.llm(self.training_layout(batch, image), middle=middle)
        length = batch.answer_tokens.shape[-1]
        answers = out.hidden["answer"][..., -length:, :]
        questions = None
        if middle:
            questions = out.middle[asked]
            if full:  # one sequence: [image, actions, bos, question, newline + answer]
                end, count = -length, batch.question_tokens.shape[-1]
                questions = questions[..., end - count : end, :]
            elif self.config.layout == "branched":
                questions = _take(questions, batch.query_question)
        logits = self.llm.unembed(answers)
        return Outputs(logits, answers[..., 0, :], features, questions)

    def training_layout(
        self, batch: TrainBatch, image: Float[Array, "B P W"]
    ) -> layouts.Layout:
        """All queries of a batch as segments; answers are read from "answer"."""
        c, rule = self.config, self.config.positions
        self._check_actions(batch.actions)
        rule.question(batch.question_tokens.shape[-1])  # raises if it is too long
        actions = self.embed_actions(batch.actions)
        questions, mask = self.llm.embed(batch.question_tokens), batch.question_mask
        newline = jnp.full_like(batch.answer_tokens[..., :1], c.newline_id)
        # Shifted right by one: position m predicts answer token m, and the newline
        # predicts the first.
        inputs = jnp.concatenate([newline, batch.answer_tokens[..., :-1]], -1)
        answers = self.llm.embed(inputs)
        horizons, pick = batch.query_horizon, batch.query_question
        asked, count = _take(mask, pick), actions.shape[-2]
        if c.layout == "full":
            parts = [
                (image[:, None], None),
                # Action t has happened at horizon h if t < h.
                (actions[:, None], jnp.arange(count) < horizons[..., None]),
                (self.llm.embed(jnp.full((1, 1, 1), c.bos_id)), None),
                (_take(questions, pick), asked),
                (answers, None),
            ]
            return layouts.full_layout(
                "brm", parts, inputs.shape[-1], c.bidirectional_tokens
            )
        past = layouts.past_actions(rule, "b", horizons, count)
        layout = {
            "image": layouts.image_segment(rule, image),
            "action": layouts.action_segment(rule, actions),
        }
        if c.layout == "branched":
            layout["question"] = layouts.question_segment(rule, questions, mask)
            # Each question runs once per image; queries select its keys.
            select = jax.nn.one_hot(pick, questions.shape[1])
            question = layouts.see_question(rule, "br", asked[:, :, None, :], select)
        else:
            layout["question"] = layouts.block_question_segment(
                rule, "brt", _take(questions, pick), asked, past
            )
            question = layouts.see_question(rule, "br", asked[:, :, None, :])
        layout["answer"] = layouts.answer_segment(
            rule, "brm", answers, horizons, question, past
        )
        return layout

    def encode(
        self,
        image: UInt8[Array, "S h w 3"],
        question_tokens: Int[Array, "S Q T"],
        question_mask: Bool[Array, "S Q T"],
        answer_ids: Int[Array, "S Q C *L"],
    ) -> Context:
        """Encodes images and questions once per replan, for all candidates."""
        c, rule = self.config, self.config.positions
        rule.question(question_tokens.shape[-1])  # raises if it is too long
        tokens, _ = self.embed_image(image)
        questions = self.llm.embed(question_tokens)
        layout = {"image": layouts.image_segment(rule, tokens)}
        if c.layout == "branched":
            layout["question"] = layouts.question_segment(
                rule, questions, question_mask
            )
        if c.layout == "full":
            return Context(tokens, questions, question_mask, answer_ids, {})
        cache = self.llm(layout, read=(), keep=tuple(layout)).cache
        return Context(None, questions, question_mask, answer_ids, cache)

    def imagine(
        self,
        context: Context,
        actions: Float[Array, "S N H A"],
        horizons: Int[Array, " K"],
    ) -> Float[Array, "S N K Q W"]:
        """Runs candidates on an encoded context; returns the newlines' last states."""
        layout = self.query_layout(context, actions, horizons)
        return self.llm(layout, context.cache).hidden["answer"][..., -1, :]

    def query_layout(
        self,
        context: Context,
        actions: Float[Array, "S N H A"],
        horizons: Int[Array, " K"],
    ) -> layouts.Layout:
        """Segments that run per candidate; "answer" ends with each query's newline."""
        c, rule = self.config, self.config.positions
        self._check_actions(actions)
        embedded = self.embed_actions(actions)
        scenes, candidates, count = actions.shape[:3]
        queries = (scenes, candidates, len(horizons), context.questions.shape[1])
        newline = self.llm.embed(jnp.full((1,) * 5, c.newline_id))
        # Axes of a query: [S, N, K, Q]; missing ones broadcast.
        horizons = horizons[:, None]  # [K, 1]
        questions = context.questions[:, None, None]
        mask = context.question_mask[:, None, None]
        if c.layout == "full":
            assert context.image is not None  # `encode` keeps it for this layout
            parts = [
                (context.image[:, None, None, None], None),
                (embedded[:, :, None, None], jnp.arange(count) < horizons[..., None]),
                (self.llm.embed(jnp.full((1,) * 5, c.bos_id)), None),
                (questions, mask),
                (newline, None),
            ]
            return layouts.full_layout("bchqm", parts, 1, c.bidirectional_tokens)
        past = layouts.past_actions(rule, "bc", horizons, count)
        layout = {"action": layouts.action_segment(rule, embedded)}
        if c.layout == "branched":
            question = layouts.see_question(rule, "bq", mask[..., None, :])
        else:
            shape = (*queries, *questions.shape[-2:])
            layout["question"] = layouts.block_question_segment(
                rule, "bchqt", jnp.broadcast_to(questions, shape), mask, past
            )
            question = layouts.see_question(rule, "bchq", mask[..., None, :])
        newline = jnp.broadcast_to(newline, (*queries, *newline.shape[-2:]))
        layout["answer"] = layouts.answer_segment(
            rule, "bchqm", newline, horizons, question, past
        )
        return layout

    def read_answers(
        self, hidden: Float[Array, "S N K Q W"], answer_ids: Int[Array, "S Q C"]
    ) -> Float[Array, "S N K Q C"]:
        """Logits of the answer set; other rows of the embedding are not read."""
        return self.llm.unembed_answers(hidden, answer_ids)

    def read_log_probs(
        self, hidden: Float[Array, "S N K Q W"], answer_ids: Int[Array, "S Q C"]
    ) -> Float[Array, "S N K Q C"]:
        """Log-probabilities of the answers, normalised over the whole vocabulary."""
        total = jax.nn.logsumexp(self.llm.unembed(hidden), -1, keepdims=True)
        return self.llm.unembed_answers(hidden, answer_ids) - total

    def embed_image(
        self, image: UInt8[Array, "B h w 3"]
    ) -> tuple[Float[Array, "B N W"], Float[Array, "B P D"]]:
        """Image tokens (not scaled by sqrt(W), as published) and patch features."""
        c = self.config
        return self.img(preprocess_image(image, c.image_size, c.resize))

    def embed_actions(self, actions: Float[Array, "... A"]) -> Float[Array, "... W"]:
        """Projected actions, scaled like text embeddings by sqrt(W)."""
        c, params = self.config, self.action()
        x = (actions * c.action_scale) @ params["kernel"] + params["bias"]
        return (x * c.width**0.5).astype(c.dtype)

    def _check_actions(self, actions):
        c = self.config
        if actions.shape[-1] != c.action_size:
            raise ValueError(
                f"actions have width {actions.shape[-1]}, the model was made for "
                f"action_size={c.action_size}"
            )
        if actions.shape[-2] > c.max_horizon:
            raise ValueError(
                f"a chunk of {actions.shape[-2]} actions is longer than the model's "
                f"max_horizon={c.max_horizon}"
            )


def _take(x: Array, index: Int[Array, "B R"]) -> Array:
    """Rows x[b, index[b, r]]."""
    return jax.vmap(lambda rows, i: rows[i])(x, index)
