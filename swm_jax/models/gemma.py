"""The decoder: Gemma's transformer over segments, with big_vision's parameter tree.

Letters of an einsum: those of a segment's axes (see `layout`), s key tokens, K key
heads, G query heads per key head, N = K x G query heads, H head width, D width,
F hidden width. Depth is the leading axis of every parameter under `layers`.
Source: "Gemma: Open Models Based on Gemini Research and Technology" and
"PaliGemma": RMSNorm that multiplies by (1 + scale), split-half RoPE, queries scaled
by H^-0.5 after RoPE, softmax in float32, gated tanh-GELU, tied embeddings whose
inputs are multiplied by sqrt(D). Gemma 2 ("Gemma 2: Improving Open Language Models at
a Practical Size") is the same with soft-capped logits and two more norms per layer.

Gemma 2's text models let every other layer see only the last 4,096 tokens. Here every
layer sees everything, as in big_vision, which trained PaliGemma 2. `transformers`
exempts the prompt from the window, so up to the first answer token both give the same
at any length, and beyond it in sequences of at most 4,096 tokens: only the later
answer tokens at 896 px (4,096 image tokens and more) may differ from it.
"""

import functools
import itertools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from swm_jax.models.config import ModelConfig
from swm_jax.models.layers import (
    Params,
    cast,
    rematerialised,
    rms_norm,
    rope,
    rope_table,
    split_layers,
)
from swm_jax.models.layout import Layout, Segment
from swm_jax.models.logical_axes import ANY, constrain

_HIDDEN = -2.3819763e38  # logit of a key that must not be seen
_LOGICAL = {"b": "batch", "c": "candidate"}  # segment axes that a mesh may split

KeyValues = dict[str, tuple[Array, Array]]
"""Keys and values [..., s, K, H] by segment; with a leading depth axis outside."""


class DecoderOutputs(NamedTuple):
    """What a pass through the decoder gives.

    Attributes:
      hidden: normed last states of the segments that were to be read, by name.
      cache: keys and values of the segments that were to be kept, by name.
      middle: states of the segments asked for before layer depth // 2, by name.
    """

    hidden: dict[str, Float[Array, "... D"]]
    cache: KeyValues
    middle: dict[str, Float[Array, "... D"]]


class Decoder(nn.Module):
    """Gemma over a layout of segments."""

    config: ModelConfig

    def setup(self):
        c = self.config
        table = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=1, out_axis=0
        )
        self.embedder = Params({"input_embedding": ((c.vocab_size, c.width), table)})
        self.layers = Params(_layer_shapes(c))
        self.final_norm = Params({"scale": ((c.width,), nn.initializers.zeros)})

    def embed(self, tokens: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Token embeddings, scaled by sqrt(width)."""
        table = self.embedder()["input_embedding"]
        # Each device of `fsdp` looks up its columns for all the others, and the rows
        # are exchanged: the table itself is not gathered.
        tokens = constrain(tokens, "replica")
        x = (table[tokens] * self.config.width**0.5).astype(self.config.dtype)
        return constrain(x, "replica", *(None,) * (x.ndim - 2), "columns")

    def unembed(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits over the whole vocabulary, float32."""
        table = cast(self.embedder()["input_embedding"], x.dtype)
        logits = jnp.einsum("...d,vd->...v", x, table).astype(jnp.float32)
        logits = constrain(logits, *(ANY,) * (logits.ndim - 1), "vocab")
        return _softcap(logits, self.config.final_softcap)

    def unembed_answers(
        self, x: Float[Array, "b c h q D"], answer_ids: Int[Array, "b q C"]
    ) -> Float[Array, "b c h q C"]:
        """Logits of each question's answers only, float32."""
        rows = cast(self.embedder()["input_embedding"][answer_ids], x.dtype)
        logits = jnp.einsum("bchqd,bqCd->bchqC", x, rows).astype(jnp.float32)
        return _softcap(logits, self.config.final_softcap)

    def __call__(
        self,
        layout: Layout,
        cache: KeyValues | None = None,
        read: tuple[str, ...] = ("answer",),
        keep: tuple[str, ...] = (),
        middle: tuple[str, ...] = (),
    ) -> DecoderOutputs:
        """Runs every segment of the layout through all layers.

        Args:
          layout: segments by name.
          cache: keys and values of segments that ran before, by name, with a
            leading depth axis.
          read: segments whose last hidden states are wanted.
          keep: segments whose keys and values are wanted.
          middle: segments whose states half way up are wanted.
        """
        c, cache = self.config, cache or {}
        read = tuple(name for name in layout if name in read)  # as they are joined
        params = self.layers()
        tables = {
            name: rope_table(segment.positions, c.head_dim)
            for name, segment in layout.items()
        }

        def layer(update):
            def run(params, x, cached):
                return _layer(params, x, cached, layout, tables, c, update)

            return rematerialised(run, c.remat)

        shared = _shared_axes(layout)
        x = _join({name: s.tokens for name, s in layout.items()}, layout, shared)
        x = _lay(layout, shared, x)
        if c.scan:
            body = layer(tuple(layout))

            def step(x, slices):
                after, keys = body(slices[0], x, slices[1])
                states = _split(x, layout, shared, middle)
                return after, ({name: keys[name] for name in keep}, states)

            x, (kept, states) = lax.scan(step, x, (params, cache))
            states = jax.tree.map(lambda s: s[c.depth // 2], states)
        else:
            kept, caches = [], split_layers(cache) if cache else [{}] * c.depth
            for i, (slice_, cached) in enumerate(zip(split_layers(params), caches)):
                if i == c.depth // 2:
                    states = _split(x, layout, shared, middle)
                # What nobody reads needs no state after the last layer.
                update = read if i == c.depth - 1 else tuple(layout)
                x, keys = layer(update)(slice_, x, cached)
                kept.append({name: keys[name] for name in keep})
            kept = jax.tree.map(lambda *k: jnp.stack(k), *kept)
            layout = {name: layout[name] for name in read}
        scale = self.final_norm()["scale"]
        last = _split(x, layout, shared, read) if read else {}
        hidden = {name: rms_norm(scale, state) for name, state in last.items()}
        return DecoderOutputs(hidden, kept, states)


def _layer(params, x, cached, layout: Layout, tables, c: ModelConfig, update):
    """One layer; every product with a weight runs over all segments at once.

    Args:
      params: of the layer.
      x: states of all segments, joined.
      cached: keys and values of segments that ran before.
      layout, tables: the segments, and RoPE's for each.
      c: the model's sizes.
      update: segments that get new states.

    Returns:
      The joined states of `update`, and the keys and values of all segments.
    """
    attn, mlp = cast(params["attn"], c.dtype), cast(params["mlp"], c.dtype)
    shared = _shared_axes(layout)
    normed = rms_norm(params["pre_attention_norm"]["scale"], x)
    key, value = (
        _lay(layout, shared, jnp.einsum("...D,KDH->...KH", normed, w), "kv_heads")
        for w in attn["kv_einsum"]["w"]
    )
    key, value = (_split(each, layout, shared) for each in (key, value))
    keys = {name: (rope(key[name], tables[name]), value[name]) for name in layout}
    keys = {**cached, **keys}
    if len(update) < len(layout):
        if not update:
            return None, keys
        x, normed = (
            _join(_split(s, layout, shared, update), layout, shared)
            for s in (x, normed)
        )
        layout = {name: layout[name] for name in update}
    query = jnp.einsum("...D,NDH->...NH", normed, attn["q_einsum"]["w"])
    query = _lay(layout, shared, query, "heads")
    seen = {}
    for name, rows in _split(query, layout, shared).items():
        rows = rope(rows, tables[name]) * (c.query_width or c.head_dim) ** -0.5
        seen[name] = _attend(layout[name], rows, keys, c.attention_softcap)
    weight = attn["attn_vec_einsum"]["w"]
    added = jnp.einsum("...NH,NHD->...D", _join(seen, layout, shared), weight)
    if c.post_norms:
        added = rms_norm(params["post_attention_norm"]["scale"], added)
    y = x + added
    z = rms_norm(params["pre_ffw_norm"]["scale"], y)
    gate, up = (_lay(layout, shared, z @ w, "mlp") for w in mlp["gating_einsum"])
    added = (jax.nn.gelu(gate) * up) @ mlp["linear"]
    if c.post_norms:
        added = rms_norm(params["post_ffw_norm"]["scale"], added)
    return _lay(layout, shared, y + added), keys


def _lay(layout: Layout, shared: int, x: Array, *last: str | None) -> Array:
    """Joined segments, laid out on the mesh there is, if any."""
    axes = next(iter(layout.values())).axes[:shared]
    return constrain(x, *map(_LOGICAL.get, axes), None, *last)


def _shared_axes(layout: Layout) -> int:
    """How many leading axes all segments have in common."""
    columns = zip(*(segment.axes[:-1] for segment in layout.values()))
    return len(
        list(itertools.takewhile(lambda letters: len(set(letters)) == 1, columns))
    )


def _join(parts: dict[str, Array], layout: Layout, shared: int) -> Array:
    """Segments' tokens side by side, behind the axes that all of them have."""

    def flat(name, x):
        return x.reshape(*x.shape[:shared], -1, *x.shape[len(layout[name].axes) :])

    return jnp.concatenate([flat(name, x) for name, x in parts.items()], shared)


def _split(
    x: Array, layout: Layout, shared: int, names: tuple[str, ...] | None = None
) -> dict[str, Array]:
    """The way back, for the segments asked for (None: all), each with its axes."""
    shapes = {name: segment.tokens.shape[:-1] for name, segment in layout.items()}
    sizes = [math.prod(shape[shared:]) for shape in shapes.values()]
    rest = x.shape[shared + 1 :]
    parts = zip(shapes.items(), lax.split(x, sizes, shared))
    return {
        name: part.reshape(*shape, *rest)
        for (name, shape), part in parts
        if names is None or name in names
    }


def _softcap(logits: Float[Array, "..."], cap: float) -> Float[Array, "..."]:
    """Squashes logits into (-cap, cap); a cap of 0 leaves them alone."""
    return cap * jnp.tanh(logits / cap) if cap else logits


def _attend(
    segment: Segment, query: Float[Array, "... N H"], keys: KeyValues, cap: float
) -> Float[Array, "... N H"]:
    """One softmax over all keys in sight, each set read where it lies.

    Exponentials of all sets share one maximum and are normalised after the values
    are summed, so that no set is copied into a common array.
    """
    kv_heads = next(iter(keys.values()))[0].shape[-2]
    # A single key head is dropped from the products: batch axes then come first
    # on both sides, and no product has to be transposed.
    head = "K" if kv_heads > 1 else ""
    split = (kv_heads, -1) if kv_heads > 1 else (-1,)
    rows = query.reshape(*query.shape[:-2], *split, query.shape[-1])
    logits, values = [], []
    for sight in segment.sight:
        key, value = keys[sight.source]
        if sight.select is not None:
            # One-hot products instead of a gather: their gradient is no scatter.
            select = sight.select.astype(query.dtype)
            key, value = (
                jnp.einsum("brq,bqsKH->brsKH", select, x) for x in (key, value)
            )
        if kv_heads == 1:
            key, value = key[..., 0, :], value[..., 0, :]
        product = jnp.einsum(
            f"{segment.axes}{head}GH,{sight.axes}s{head}H->{segment.axes}{head}Gs",
            rows,
            key,
        ).astype(jnp.float32)
        product = _softcap(product, cap)
        if sight.mask is not None:
            mask = sight.mask[(..., *(None,) * len(split), slice(None))]
            product = jnp.where(mask, product, _HIDDEN)
        logits.append(product)
        values.append(value)
    peak = functools.reduce(jnp.maximum, [x.max(-1, keepdims=True) for x in logits])
    weights = [jnp.exp(x - lax.stop_gradient(peak)) for x in logits]
    total = sum(w.sum(-1, keepdims=True) for w in weights)
    seen = sum(
        jnp.einsum(
            f"{segment.axes}{head}Gs,{sight.axes}s{head}H->{segment.axes}{head}GH",
            weight.astype(query.dtype),
            value,
            preferred_element_type=jnp.float32,
        )
        for sight, weight, value in zip(segment.sight, weights, values)
    )
    return (seen / total).astype(query.dtype).reshape(query.shape)


def _layer_shapes(c: ModelConfig):
    def normal(in_axis, out_axis):
        return nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal", in_axis, out_axis, batch_axis=0
        )

    depth, width = c.depth, c.width
    norm = {"scale": ((depth, width), nn.initializers.zeros)}
    names = ["pre_attention_norm", "pre_ffw_norm"]
    if c.post_norms:
        names += ["post_attention_norm", "post_ffw_norm"]
    return {
        "attn": {
            "q_einsum": {"w": ((depth, c.heads, width, c.head_dim), normal(2, (1, 3)))},
            "kv_einsum": {
                "w": (
                    (depth, 2, c.kv_heads, width, c.head_dim),
                    normal(3, (1, 2, 4)),
                )
            },
            "attn_vec_einsum": {
                "w": ((depth, c.heads, c.head_dim, width), normal((1, 2), 3))
            },
        },
        "mlp": {
            "gating_einsum": ((depth, 2, width, c.mlp), normal(2, (1, 3))),
            "linear": ((depth, c.mlp, width), normal(1, 2)),
        },
        **{name: norm for name in names},
    }
