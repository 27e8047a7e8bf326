"""The semantic world model: image tower, action projector, decoder, answers.

One class serves all layouts (see `layout`) and both ways to run them: whole, in
training, with many queries per image; and in two halves for planning, where the
context half runs once per scene and the candidate half reads its keys.

Axes: B images or S scenes, Q questions, T question tokens, R queries, L answer
tokens, H actions, A action width, N candidates, K horizons, P patches, W decoder
width, V vocabulary, C answers of the answer set.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from swm_jax.models import layout as layouts
from swm_jax.models.config import ModelConfig
from swm_jax.models.gemma import Decoder, KeyValues
from swm_jax.models.layers import Params
from swm_jax.models.layout import Sight
from swm_jax.models.preprocess import preprocess_image
from swm_jax.models.siglip import ImageTower
from swm_jax.models.types import TrainBatch


@struct.dataclass
class Outputs:
    """What a training forward returns.

    Attributes:
      logits: float32[B, R, L, V], of every answer position.
      patch_features: float[B, P, D], image tower features after its last norm.
    """

    logits: Float[Array, "B R L V"]
    patch_features: Float[Array, "B P D"]


@struct.dataclass
class Context:
    """What no candidate changes.

    Attributes:
      image: float[S, P, W], image tokens (None where `cache` serves instead).
      questions: float[S, Q, T, W], embedded questions.
      question_mask: bool[S, Q, T].
      answer_ids: int32[S, Q, C].
      cache: keys and values of the segments that have run, by name.
    """

    image: Float[Array, "S P W"] | None
    questions: Float[Array, "S Q T W"]
    question_mask: Bool[Array, "S Q T"]
    answer_ids: Int[Array, "S Q C"]
    cache: KeyValues


class SemanticWorldModel(nn.Module):
    """Answers questions about the state after the first h actions."""

    config: ModelConfig

    def setup(self):
        c = self.config
        self.img = ImageTower(c)
        self.llm = Decoder(c)
        normal = nn.initializers.normal
        self.action = Params(
            {
                "kernel": ((c.action_size, c.width), normal(c.action_init_std)),
                "bias": ((c.width,), normal(c.action_bias_std)),
            }
        )

    def init_params(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Fresh parameters: a tree with `img`, `llm` and `action`."""
        return self.init(key, method=SemanticWorldModel._touch)["params"]

    def _touch(self):
        c = self.config
        self.img(jnp.zeros((1, c.image_size, c.image_size, 3)))
        tokens = {"answer": self.llm.embed(jnp.zeros((1, 1, 1), jnp.int32))}
        ones = jnp.ones((1, 1, 1), bool)
        self.llm(layouts.full_layout("brm", [(tokens["answer"], ones)], 1))
        self.action()

    def __call__(self, batch: TrainBatch) -> Outputs:
        """Logits of every query's answer tokens (teacher forcing)."""
        c = self.config
        self._check(batch.actions, batch.question_tokens)
        image, features = self.embed_image(batch.image)
        actions = self.embed_actions(batch.actions)
        questions = self.llm.embed(batch.question_tokens)
        mask = batch.question_mask
        answers = self.llm.embed(
            jnp.concatenate(
                [
                    jnp.full_like(batch.answer_tokens[..., :1], c.newline_id),
                    batch.answer_tokens[..., :-1],
                ],
                -1,
            )
        )
        length = answers.shape[-2]
        horizons = batch.query_horizon
        pick = batch.query_question
        rule = c.positions
        past = lambda extra: layouts.past_actions(
            "b", horizons, actions.shape[-2], extra
        )
        if c.layout == "full":
            horizon_mask = jnp.arange(actions.shape[-2]) < horizons[..., None]
            layout = layouts.full_layout(
                "brm",
                [
                    (image[:, None], _true(image[:, None])),
                    (actions[:, None], horizon_mask),
                    self._bos(),
                    (_take(questions, pick), _take(mask, pick)),
                    (answers, _true(answers)),
                ],
                length,
            )
        else:
            layout = {
                "image": layouts.image_segment(rule, image),
                "action": layouts.action_segment(rule, actions),
            }
            if c.layout == "branched":
                layout["question"] = layouts.question_segment(rule, questions, mask)
                seen = _take(mask, pick)[:, :, None, :]
                select = jax.nn.one_hot(pick, questions.shape[1])
                question = Sight("question", "br", seen, select)
            else:
                asked = _take(mask, pick)
                layout["question"] = layouts.block_question_segment(
                    rule, "brt", _take(questions, pick), asked, past(1)
                )
                question = Sight("question", "br", asked[:, :, None, :])
            layout["answer"] = layouts.answer_segment(
                rule, "brm", answers, horizons, question, past(1)
            )
        hidden, _ = self.llm(layout)
        logits = self.llm.unembed(hidden["answer"][..., -length:, :])
        return Outputs(logits=logits, patch_features=features)

    def embed_image(
        self, image: UInt8[Array, "B h w 3"]
    ) -> tuple[Float[Array, "B P W"], Float[Array, "B P D"]]:
        """Image tokens (unscaled, as published) and patch features."""
        return self.img(preprocess_image(image, self.config.image_size))

    def embed_actions(self, actions: Float[Array, "... A"]) -> Float[Array, "... W"]:
        """Projected actions, scaled like text by sqrt(width)."""
        c, params = self.config, self.action()
        x = (actions * c.action_scale) @ params["kernel"] + params["bias"]
        return (x * c.width**0.5).astype(c.dtype)

    def _bos(self):
        tokens = self.llm.embed(jnp.full((1, 1, 1), self.config.bos_id))
        return tokens, _true(tokens)

    def _check(self, actions, question_tokens):
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
        if question_tokens.shape[-1] > c.max_question_tokens:
            raise ValueError(
                f"a question of {question_tokens.shape[-1]} tokens is longer than "
                f"the model's max_question_tokens={c.max_question_tokens}"
            )


def _take(x: Array, index: Int[Array, "B R"]) -> Array:
    """Rows x[b, index[b, r]]."""
    return jax.vmap(lambda rows, i: rows[i])(x, index)


def _true(tokens: Float[Array, "... n W"]) -> Bool[Array, "... n"]:
    return jnp.ones(tokens.shape[:-1], bool)
