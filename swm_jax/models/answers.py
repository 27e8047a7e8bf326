"""Answers of several tokens: scoring an answer set, and text generation.

`prompt` runs everything up to each query's newline and keeps keys and values. `extend`
runs answer tokens on that cache: all alternatives of an answer set in one
teacher-forced pass, or one token at a time in a decoding loop with a key-value buffer.

The probability of an answer is the product of its tokens' probabilities over the whole
vocabulary. The newline predicts the first token, so an answer set of single tokens
needs no pass beyond `imagine`.

Axes: S scenes, N candidates, H actions, A action width, K horizons, Q questions,
C answers of the answer set (J where a pass runs them), L tokens of a padded answer,
M tokens of a written text, W decoder width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Bool, Float, Int, Key

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.models import layout as layouts
from swm_jax.models.backbones.attention import KeyValues
from swm_jax.models.config import ModelConfig
from swm_jax.models.layout import Segment
from swm_jax.models.swm import SemanticWorldModel
from swm_jax.models.types import PAD_TOKEN, Context

_ROWS = 1024  # tokens whose logits over the whole vocabulary are in memory at once


class Prompt(NamedTuple):
    """Cached queries up to their newline, to be extended by answer tokens.

    Attributes:
      hidden: float[S, N, K, Q, W], final hidden state of every newline, which predicts
        the first answer token.
      newline: the segment that ends with the newlines.
      cache: keys and values by segment.
    """

    hidden: Float[Array, "S N K Q W"]
    newline: Segment
    cache: KeyValues


class Written(struct.PyTreeNode):
    """Generated texts.

    Attributes:
      tokens: int32[S, N, K, Q, M], `PAD_TOKEN` after the eos.
      log_probs: float32[S, N, K, Q], log-probability of the whole text, eos included,
        at temperature 1 (independent of the sampling temperature).
      complete: bool[S, N, K, Q], True if the text ends with eos, False if cut off.
    """

    tokens: Int[Array, "S N K Q M"]
    log_probs: Float[Array, "S N K Q"]
    complete: Bool[Array, "S N K Q"]


def prompt(
    model: SemanticWorldModel,
    context: Context,
    actions: Float[Array, "S N H A"],
    horizons: Int[Array, " K"],
) -> Prompt:
    """`SemanticWorldModel.imagine` that also keeps keys and values."""
    layout = model.query_layout(context, actions, horizons)
    out = model.llm(layout, context.cache, keep=tuple(layout))
    hidden = out.hidden["answer"][..., -1, :]
    return Prompt(hidden, layout["answer"], {**context.cache, **out.cache})


def extend(
    model: SemanticWorldModel,
    prompt: Prompt,
    tokens: Int[Array, "S N K Q *J M"],
    start: Int[Array, ""] | int = 0,
    earlier: tuple[Array, Array] | None = None,
) -> tuple[Float[Array, "S N K Q *J M W"], tuple[Array, Array]]:
    """Runs M answer tokens in one pass after a prompt.

    Args:
      model: bound to its parameters (a method of `apply`).
      prompt: from `prompt`.
      tokens: with an axis J where queries have several alternative answers.
      start: number of answer tokens that ran before these.
      earlier: buffer of their keys and values, of which the first `start` are valid;
        not supported together with J.

    Returns:
      Final hidden states of the tokens, and their keys and values.
    """
    cache, sight = prompt.cache, None
    if earlier is not None:
        sight = layouts.see_reply(prompt.newline, earlier[0].shape[-3], start)
        cache = {**cache, "earlier": earlier}
    embedded = model.llm.embed(tokens)
    reply = layouts.reply_segment(prompt.newline, embedded, start, sight)
    out = model.llm({"reply": reply}, cache, read=("reply",), keep=("reply",))
    return out.hidden["reply"], out.cache["reply"]


def answer_set_log_probs(
    config: ModelConfig,
    params: Any,
    context: Context,
    actions: Float[Array, "S N H A"],
    horizons: Int[Array, " K"],
) -> Float[Array, "S N K Q C"]:
    """Log-probabilities of answers of one or more tokens, over the whole vocabulary.

    Args:
      config, params: the model.
      context: from `encode`, with answer_ids int32[S, Q, C, L] padded right with
        `PAD_TOKEN`. An answer that is a prefix of another should end with eos, or its
        probability includes the other's.
      actions, horizons: as for `SemanticWorldModel.imagine`.
    """
    apply = _applier(config, params)
    asked = apply(prompt, context, actions, horizons)
    ids = context.answer_ids[:, None, None]  # [S, 1, 1, Q, C, L]
    lead = (*asked.hidden.shape[:-1], ids.shape[-2])
    ids = jnp.broadcast_to(ids, (*lead, ids.shape[-1]))
    result = _log_probs_of(apply, asked.hidden, ids[..., 0])
    if ids.shape[-1] == 1:
        return result
    # Teacher forcing: token m is predicted at m - 1, so the last one need not run.
    hidden, _ = apply(extend, asked, ids[..., :-1])
    rest = _log_probs_of(apply, hidden, ids[..., 1:, None])[..., 0]
    return result + jnp.where(ids[..., 1:] != PAD_TOKEN, rest, 0.0).sum(-1)


def write(
    config: ModelConfig,
    params: Any,
    context: Context,
    actions: Float[Array, "S N H A"],
    horizons: Int[Array, " K"],
    length: int,
    keys: Key[jax.Array, "S N K Q"] | None = None,
    temperature: Float[Array, ""] | float = 1.0,
) -> Written:
    """Generates texts of at most `length` tokens, eos included.

    Args:
      config, params: the model.
      context: from `encode`; its answer_ids are ignored.
      actions, horizons: as for `SemanticWorldModel.imagine`.
      length: M, static, at least 1.
      keys: sampling keys [S, N, K, Q], one per text, so that a text is independent of
        the rest of the batch; None decodes greedily.
      temperature: divides the logits before sampling.
    """
    apply = _applier(config, params)
    asked = apply(prompt, context, actions, horizons)

    def choose(hidden, step):
        """The next token of every text, and its log-probability."""
        log_probs = apply(_read_vocabulary, hidden)
        if keys is None:
            token = log_probs.argmax(-1).astype(jnp.int32)
        else:
            sample = lambda key, row: prng.categorical(
                prng.fold_in(key, step), row / temperature
            )
            for _ in range(hidden.ndim - 1):
                sample = jax.vmap(sample)
            token = sample(keys, log_probs).astype(jnp.int32)
        return token, jnp.take_along_axis(log_probs, token[..., None], -1)[..., 0]

    def next_token(state):
        step, hidden, tokens, total, done, buffer = state
        token, log_prob = choose(hidden, step)
        token = jnp.where(done, PAD_TOKEN, token)
        total = total + jnp.where(done, 0.0, log_prob)
        done = done | (token == config.eos_id)
        return token, tokens.at[..., step].set(token), total, done, buffer

    def grow(state):
        """Runs the latest token, appends its keys, then chooses the next token."""
        step, token, tokens, total, done, buffer = state
        hidden, fresh = apply(extend, asked, token[..., None], step - 1, buffer)
        buffer = tuple(
            lax.dynamic_update_slice_in_dim(old, new, step - 1, old.ndim - 3)
            for old, new in zip(buffer, fresh)
        )
        state = step, hidden[..., 0, :], tokens, total, done, buffer
        return step + 1, *next_token(state)

    shape = asked.hidden.shape[:-1]
    # length - 1 slots: the last token of a text is never an input.
    buffer = tuple(
        jnp.zeros((*x.shape[:-3], length - 1, *x.shape[-2:]), x.dtype)
        for x in asked.cache["answer"]
    )
    tokens = jnp.full((*shape, length), PAD_TOKEN, jnp.int32)
    total, done = jnp.zeros(shape), jnp.zeros(shape, bool)
    state = 1, *next_token((0, asked.hidden, tokens, total, done, buffer))
    if length > 1:
        # Stops early when every text has its eos.
        going = lambda state: (state[0] < length) & ~state[4].all()
        state = lax.while_loop(going, grow, state)
    _, _, tokens, total, done, _ = state
    return Written(tokens, total, done)


def _applier(config: ModelConfig, params: Any) -> Callable[..., Any]:
    model = SemanticWorldModel(config)
    return lambda method, *args: model.apply({"params": params}, *args, method=method)


def _read_vocabulary(model, hidden: Float[Array, "... W"]) -> Float[Array, "... V"]:
    return jax.nn.log_softmax(model.llm.unembed(hidden))


def _log_probs_of(
    apply, hidden: Float[Array, "... W"], ids: Int[Array, "... C"]
) -> Float[Array, "... C"]:
    """Log-probabilities of C tokens per state, in blocks of `_ROWS` states.

    Blocks bound the memory of the [..., V] logits.
    """

    @jax.checkpoint  # the backward pass recomputes a block's logits
    def read(row):
        hidden, ids = row
        return jnp.take_along_axis(apply(_read_vocabulary, hidden), ids, -1)

    flat = hidden.reshape(-1, hidden.shape[-1]), ids.reshape(-1, ids.shape[-1])
    if len(flat[0]) <= _ROWS:
        return read(flat).reshape(ids.shape)
    return lax.map(read, flat, batch_size=_ROWS).reshape(ids.shape)
