"""Gemma 1 and 2 decoder over segments, with big_vision's parameter tree.

Letters of an einsum: K key heads, N query heads, H head width, D width, F hidden
width. Depth is the leading axis of every parameter under `layers`.
Source: "Gemma: Open Models Based on Gemini Research and Technology" and
"PaliGemma": RMSNorm that multiplies by (1 + scale), split-half RoPE, queries scaled
by H^-0.5 after RoPE, softmax in float32, gated tanh-GELU, tied embeddings whose
inputs are multiplied by sqrt(D). Gemma 2 ("Gemma 2: Improving Open Language Models at
a Practical Size") is the same with soft-capped logits and two more norms per layer.

Gemma 2's text models have a sliding window of 4,096 tokens in every other layer. Here
all layers are global, as in big_vision, which trained PaliGemma 2. `transformers`
exempts the prompt from the window, so results agree up to the first answer token at any
length, and beyond it in sequences of at most 4,096 tokens: only later answer tokens at
896 px (4,096 image tokens) may differ from it.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from swm_jax.arrays import Array
from swm_jax.models.backbones.attention import (
    KeyValues,
    Near,
    attend,
    join,
    lay,
    shared_axes,
    softcap,
    split,
)
from swm_jax.models.backbones.layers import (
    rematerialised,
    rms_norm,
    rope,
    rope_table,
    split_layers,
)
from swm_jax.models.backbones.logical_axes import ANY, constrain
from swm_jax.models.backbones.weights import Params, Weight, cast, zeros
from swm_jax.models.config import ModelConfig
from swm_jax.models.layout import Layout


class DecoderOutputs(NamedTuple):
    """Outputs of a decoder pass, by segment name.

    Attributes:
      hidden: final hidden states, after the last norm, of the segments in `read`.
      cache: keys and values of the segments in `keep`, with a leading depth axis.
      middle: hidden states before layer depth // 2 of the segments in `middle`.
    """

    hidden: dict[str, Float[Array, "... D"]]
    cache: KeyValues
    middle: dict[str, Float[Array, "... D"]]


class View(NamedTuple):
    """RoPE tables and window masks of one kind of layer (local or global).

    Attributes:
      tables: sine and cosine of RoPE for every segment, by name.
      near: sliding-window masks, by segment name; empty without a window.
    """

    tables: dict[str, tuple[Array, Array]]
    near: dict[str, Near]


class Decoder(nn.Module):
    """Gemma decoder over a layout of segments."""

    config: ModelConfig

    def setup(self):
        weights = self.weights(self.config)
        self.embedder = Params(weights["embedder"])
        self.layers = Params(weights["layers"])
        self.final_norm = Params(weights["final_norm"])

    @staticmethod
    def weights(c: ModelConfig) -> dict[str, Any]:
        """Parameter declarations of the decoder, as a tree of `Weight`s."""
        depth, width, head = c.depth, c.width, c.head_dim
        table = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=1, out_axis=0
        )
        norm = {"scale": Weight((depth, width), init=zeros)}
        names = ["pre_attention_norm", "pre_ffw_norm"]
        if c.post_norms:
            names += ["post_attention_norm", "post_ffw_norm"]
        query = Weight((depth, c.heads, width, head), "LNDH", "D")
        key_value = Weight((depth, 2, c.kv_heads, width, head), "LSKDH", "D")
        out = Weight((depth, c.heads, head, width), "LNHD", "NH")
        return {
            "embedder": {
                "input_embedding": Weight((c.vocab_size, width), "VD", init=table)
            },
            "layers": {
                "attn": {
                    "q_einsum": {"w": query},
                    "kv_einsum": {"w": key_value},
                    "attn_vec_einsum": {"w": out},
                },
                "mlp": {
                    "gating_einsum": Weight((depth, 2, width, c.mlp), "LSDF", "D"),
                    "linear": Weight((depth, c.mlp, width), "LFD", "F"),
                },
                **{name: norm for name in names},
            },
            "final_norm": {"scale": Weight((width,), init=zeros)},
        }

    def views(self, layout: Layout) -> tuple[View, ...]:
        """The view of each kind of layer; Gemma 1 and 2 have one kind."""
        tables = {
            name: rope_table(segment.positions, self.config.head_dim)
            for name, segment in layout.items()
        }
        return (View(tables, {}),)

    def kinds(self) -> tuple[int, ...]:
        """Index into `views` for every layer."""
        return (0,) * self.config.depth

    @staticmethod
    def turn(attn: dict, name: str, x: Float[Array, "... N H"], table):
        """Applies RoPE to queries or keys.

        Args:
          attn: attention parameters of the layer, for subclasses that normalise.
          name: "query" or "key".
          x: queries or keys of one segment.
          table: RoPE table of the segment.
        """
        return rope(x, table)

    def embed(self, tokens: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Token embeddings, scaled by sqrt(width)."""
        table = self.embedder()["input_embedding"]
        # The table's columns are split over `fsdp`: each device looks up its columns of
        # all tokens and the results are exchanged, instead of gathering the table.
        tokens = constrain(tokens, "replica")
        x = (table[tokens] * self.config.width**0.5).astype(self.config.dtype)
        return constrain(x, "replica", *(None,) * (x.ndim - 2), "columns")

    def unembed(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits over the whole vocabulary, float32."""
        table = cast(self.embedder()["input_embedding"], x.dtype)
        logits = jnp.einsum("...d,vd->...v", x, table).astype(jnp.float32)
        logits = constrain(logits, *(ANY,) * (logits.ndim - 1), "vocab")
        return softcap(logits, self.config.final_softcap)

    def unembed_answers(
        self, x: Float[Array, "b c h q D"], answer_ids: Int[Array, "b q C"]
    ) -> Float[Array, "b c h q C"]:
        """Logits over each question's answer set, float32."""
        rows = cast(self.embedder()["input_embedding"][answer_ids], x.dtype)
        logits = jnp.einsum("bchqd,bqCd->bchqC", x, rows).astype(jnp.float32)
        return softcap(logits, self.config.final_softcap)

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
          cache: keys and values of earlier segments, by name, with a leading depth
            axis.
          read: segments whose final hidden states are returned.
          keep: segments whose keys and values are returned.
          middle: segments whose hidden states before layer depth // 2 are returned.
        """
        c, cache = self.config, cache or {}
        # In the layout's order, in which the last layer's states are joined and split.
        read = tuple(name for name in layout if name in read)
        params = self.layers()
        views, kinds = self.views(layout), self.kinds()

        def layer(update):
            def run(params, x, cached, kind):
                view = _choose(views, kind)
                return _layer(params, x, cached, layout, view, self.turn, c, update)

            return rematerialised(run, c.remat)

        shared = shared_axes(layout)
        x = join({name: s.tokens for name, s in layout.items()}, layout, shared)
        x = lay(layout, shared, x)
        states: Any = None  # before the middle layer
        if c.scan:
            body = layer(tuple(layout))

            def step(x, slices):
                params, cached, kind = slices
                after, keys = body(params, x, cached, kind)
                states = split(x, layout, shared, middle)
                return after, ({name: keys[name] for name in keep}, states)

            xs = (params, cache, jnp.array(kinds))
            x, (kept, states) = lax.scan(step, x, xs)
            # The scan stacks the states before every layer; keep those of one.
            states = jax.tree.map(lambda s: s[c.depth // 2], states)
        else:
            kept, caches = [], split_layers(cache) if cache else [{}] * c.depth
            for i, (slice_, cached) in enumerate(zip(split_layers(params), caches)):
                if i == c.depth // 2:
                    states = split(x, layout, shared, middle)
                # In the last layer, segments that are not read need keys and values
                # only.
                update = read if i == c.depth - 1 else tuple(layout)
                x, keys = layer(update)(slice_, x, cached, kinds[i])
                kept.append({name: keys[name] for name in keep})
            kept = jax.tree.map(lambda *k: jnp.stack(k), *kept)
            layout = {name: layout[name] for name in read}
        scale = self.final_norm()["scale"]
        last = split(x, layout, shared, read) if read else {}
        hidden = {name: rms_norm(scale, state) for name, state in last.items()}
        return DecoderOutputs(hidden, kept, states)


def _choose(views: tuple[View, ...], kind: int | Int[Array, ""]) -> View:
    """The view of a layer's kind; a dynamic index inside `lax.scan`."""
    if len(views) == 1 or isinstance(kind, int):
        return views[0 if len(views) == 1 else kind]
    pick = lambda *each: jnp.stack(jnp.broadcast_arrays(*each))[kind]
    return jax.tree.map(pick, *views)


def _layer(params, x, cached, layout: Layout, view: View, turn, c: ModelConfig, update):
    """One decoder layer; products with weights run over all segments at once.

    Args:
      params: of the layer.
      x: hidden states of all segments, joined.
      cached: keys and values of earlier segments.
      layout, view: the segments, with RoPE tables and window masks of this layer.
      turn: applies RoPE (`Decoder.turn`).
      c: model config.
      update: segments whose hidden states are computed.

    Returns:
      The joined hidden states of `update`, and the keys and values of all segments.
    """
    attn, mlp = cast(params["attn"], c.dtype), cast(params["mlp"], c.dtype)
    shared = shared_axes(layout)
    normed = rms_norm(params["pre_attention_norm"]["scale"], x)
    key, value = (
        lay(layout, shared, jnp.einsum("...D,KDH->...KH", normed, w), "kv_heads")
        for w in attn["kv_einsum"]["w"]
    )
    key, value = (split(each, layout, shared) for each in (key, value))
    turned = lambda name, which, x: turn(params["attn"], which, x, view.tables[name])
    keys = {name: (turned(name, "key", key[name]), value[name]) for name in layout}
    keys = {**cached, **keys}
    if len(update) < len(layout):  # the last layer, pruned
        if not update:
            return None, keys
        x, normed = (
            join(split(s, layout, shared, update), layout, shared) for s in (x, normed)
        )
        layout = {name: layout[name] for name in update}
    query = jnp.einsum("...D,NDH->...NH", normed, attn["q_einsum"]["w"])
    query = lay(layout, shared, query, "heads")
    seen = {}
    for name, rows in split(query, layout, shared).items():
        # Scaled after RoPE, as published.
        rows = turned(name, "query", rows) * (c.query_width or c.head_dim) ** -0.5
        near = view.near.get(name)
        seen[name] = attend(layout[name], rows, keys, c.attention_softcap, near)
    weight = attn["attn_vec_einsum"]["w"]
    added = jnp.einsum("...NH,NHD->...D", join(seen, layout, shared), weight)
    if c.post_norms:
        added = rms_norm(params["post_attention_norm"]["scale"], added)
    y = x + added
    z = rms_norm(params["pre_ffw_norm"]["scale"], y)
    gate, up = (lay(layout, shared, z @ w, "mlp") for w in mlp["gating_einsum"])
    added = (jax.nn.gelu(gate) * up) @ mlp["linear"]
    if c.post_norms:
        added = rms_norm(params["post_ffw_norm"]["scale"], added)
    return lay(layout, shared, y + added), keys
