"""The semantic world model: image tower, action projector, decoder, answers.

One module serves all layouts (see `layout`) and both modes: a single teacher-forced
pass in training, with many queries per image; for planning `encode`, once per scene,
and `imagine`, which runs the candidates on the cached keys and values.

Axes: B images or S scenes, Q questions, T question tokens, R queries, L answer
tokens, H actions, A action width, N candidates or chunks of an image, K horizons,
P patches, W decoder width, V vocabulary, C answers of the answer set.
"""

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PRNGKeyArray, UInt8

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.models import layout as layouts
from swm_jax.models.action_scale import action_weights, check_actions
from swm_jax.models.backbones.registry import BACKBONES
from swm_jax.models.backbones.weights import Params
from swm_jax.models.config import ModelConfig
from swm_jax.models.objects import (
    ObjectStates,
    future_of,
    object_tokens,
    object_weights,
    path_tokens,
    read_states,
    robot_path,
    see_future,
)
from swm_jax.models.preprocess import preprocess_image
from swm_jax.models.types import Context, Outputs, TrainBatch


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
        # None in a model without object tokens, which has no such parameters.
        self.objects: Any = Params(object_weights(c)) if c.objects else None

    def init_params(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Fresh parameters: a tree with `img`, `llm`, `action`, `objects` if any."""
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
        if self.objects is not None:
            self.objects()

    def __call__(self, batch: TrainBatch) -> Outputs:
        """Training forward pass: logits of all answer tokens (teacher forcing)."""
        image, features, objects = self.see(batch.image)
        full = self.config.layout == "full"
        asked = "answer" if full else "question"
        middle = (asked,) if batch.mentions is not None else ()
        read = ("answer",) if objects is None else ("answer", "future")
        layout = self.training_layout(batch, image, objects)
        out = self.llm(layout, read=read, middle=middle)
        length = batch.answer_tokens.shape[-1]
        answers = out.hidden["answer"][..., -length:, :]
        answers = answers.reshape(*batch.query_type.shape, *answers.shape[-2:])
        questions = None
        if middle:
            questions = out.middle[asked]
            if full:  # one sequence: [image, actions, bos, question, newline + answer]
                end, count = -length, batch.question_tokens.shape[-1]
                questions = questions[..., end - count : end, :]
            elif self.config.layout == "branched" and batch.actions.ndim == 3:
                questions = _take(questions, batch.query_question)
        logits = self.llm.unembed(answers)
        future = out.hidden.get("future")
        return Outputs(logits, answers[..., 0, :], features, questions, objects, future)

    def training_layout(
        self,
        batch: TrainBatch,
        image: Float[Array, "B P W"],
        objects: ObjectStates | None = None,
    ) -> layouts.Layout:
        """All queries of a batch as segments; answers are read from "answer".

        Raises:
          ValueError: several chunks per image in another layout than `branched`.
        """
        c, rule = self.config, self.config.positions
        check_actions(c, batch.actions)
        rule.question(batch.question_tokens.shape[-1])  # raises if it is too long
        if batch.actions.ndim == 4:
            return self._branches(batch, image, objects)
        actions = self.embed_actions(batch.actions, objects and objects.state)
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
            if objects is not None:
                seen = image, objects, batch.actions
                layout["future"] = future_of(self.objects(), c, "br", *seen, horizons)
        else:
            layout["question"] = layouts.block_question_segment(
                rule, "brt", _take(questions, pick), asked, past
            )
            question = layouts.see_question(rule, "br", asked[:, :, None, :])
        seen = (question, past, *see_future(c, "br", horizons))
        layout["answer"] = layouts.answer_segment(rule, "brm", answers, horizons, *seen)
        return layout

    def _branches(self, batch, image, objects) -> layouts.Layout:
        """Layout of several chunks per image, whose questions run once for all.

        Queries are the grid [N chunks, G horizons, Q questions], as in planning.
        """
        c, rule = self.config, self.config.positions
        if c.layout != "branched":
            raise ValueError(
                "several chunks per image need the layout branched, the model has "
                f"{c.layout}"
            )
        questions, mask = self.llm.embed(batch.question_tokens), batch.question_mask
        newline = jnp.full_like(batch.answer_tokens[..., :1], c.newline_id)
        inputs = jnp.concatenate([newline, batch.answer_tokens[..., :-1]], -1)
        grid = (*batch.actions.shape[:2], batch.horizons.shape[1], questions.shape[1])
        answers = self.llm.embed(inputs.reshape(*grid, -1))
        horizons = batch.horizons[:, None]  # [B, 1, G]
        return {
            "image": layouts.image_segment(rule, image),
            "question": layouts.question_segment(rule, questions, mask),
            **self._grid(image, objects, mask, batch.actions, horizons, answers),
        }

    def _grid(self, image, objects, mask, actions, horizons, answers) -> layouts.Layout:
        """Actions, futures and answers to every question at every horizon.

        Args:
          image: tokens, of which the objects' are read.
          objects: read-outs; None in a model without object tokens.
          mask: bool[S, Q, T], real tokens of the questions.
          actions: [S, N, H, A].
          horizons: [K], or [S, 1, K].
          answers: tokens [S, N, K, Q, M, W], the newline first.
        """
        c, rule, each = self.config, self.config.positions, horizons[..., None]
        embedded = self.embed_actions(actions, objects and objects.state)
        layout = {"action": layouts.action_segment(rule, embedded)}
        question = layouts.see_question(rule, "bq", mask[:, None, None, :, None, :])
        past = layouts.past_actions(rule, "bc", each, actions.shape[-2])
        if objects is not None:
            seen = image, objects, actions
            layout["future"] = future_of(self.objects(), c, "bch", *seen, horizons)
        seen = (question, past, *see_future(c, "bch", each))
        layout["answer"] = layouts.answer_segment(rule, "bchqm", answers, each, *seen)
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
        tokens, _, objects = self.see(image)
        questions = self.llm.embed(question_tokens)
        layout = {"image": layouts.image_segment(rule, tokens)}
        if c.layout == "branched":
            layout["question"] = layouts.question_segment(
                rule, questions, question_mask
            )
        if c.layout == "full":
            return Context(tokens, questions, question_mask, answer_ids, {})
        cache = self.llm(layout, read=(), keep=tuple(layout)).cache
        start = None if objects is None else tokens
        return Context(start, questions, question_mask, answer_ids, cache, objects)

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
        check_actions(c, actions)
        scenes, candidates, count = actions.shape[:3]
        queries = (scenes, candidates, len(horizons), context.questions.shape[1])
        newline = self.llm.embed(jnp.full((1,) * 5, c.newline_id))
        newlines = jnp.broadcast_to(newline, (*queries, *newline.shape[-2:]))
        if c.layout == "branched":
            seen = context.image, context.objects, context.question_mask
            return self._grid(*seen, actions, horizons, newlines)
        # Axes of a query: [S, N, K, Q]; missing ones broadcast.
        horizons, embedded = horizons[:, None], self.embed_actions(actions)
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
        shape = (*queries, *questions.shape[-2:])
        asked = jnp.broadcast_to(questions, shape)
        question = layouts.see_question(rule, "bchq", mask[..., None, :])
        return {
            "action": layouts.action_segment(rule, embedded),
            "question": layouts.block_question_segment(
                rule, "bchqt", asked, mask, past
            ),
            "answer": layouts.answer_segment(
                rule, "bchqm", newlines, horizons, question, past
            ),
        }

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
        """Image tokens (not scaled by sqrt(W), as published) and patch features.

        The tokens of objects, if the model has any, come last.
        """
        return self.see(image)[:2]

    def see(self, image: UInt8[Array, "B h w 3"]):
        """Image tokens and patch features as of `embed_image`, states of the objects.

        The states are None in a model without object tokens.
        """
        c = self.config
        tokens, features = self.img(preprocess_image(image, c.image_size, c.resize))
        if self.objects is None:
            return tokens, features, None
        objects = read_states(self.objects(), features)
        more = object_tokens(self.objects(), objects.state, c.object_axes)
        tokens = jnp.concatenate([tokens, more.astype(tokens.dtype)], 1)
        return tokens, features, objects

    def look(self, image: UInt8[Array, "B h w 3"]) -> ObjectStates:
        """States of the objects in images, without the decoder."""
        c = self.config
        _, features = self.img(preprocess_image(image, c.image_size, c.resize))
        return read_states(self.objects(), features)

    def embed_actions(
        self,
        actions: Float[Array, "B *N H A"],
        objects: Float[Array, "B K V"] | None = None,
    ) -> Float[Array, "B *N H W"]:
        """Projected actions, scaled like text embeddings by sqrt(W).

        Args:
          actions: raw action units.
          objects: states of the objects, in a model with object tokens.
        """
        c, params = self.config, self.action()
        x = (actions * c.action_scale) @ params["kernel"] + params["bias"]
        x = x * c.width**0.5
        if objects is not None:
            path = robot_path(actions, c.object_axes)[..., 1:, :]
            x = x + path_tokens(self.objects(), objects, path)
        return x.astype(c.dtype)


def _take(x: Array, index: Int[Array, "B R"]) -> Array:
    """Rows x[b, index[b, r]]."""
    return jax.vmap(lambda rows, i: rows[i])(x, index)
