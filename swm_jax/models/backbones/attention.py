"""Attention over the segments of a layout.

Products with weights run on all segments joined along one token axis; attention runs
per segment, because segments have different key sets and masks.

Letters of an einsum: those of a segment's axes (see `layout`), s key tokens, K key
heads, G query heads per key head, N = K x G query heads, H head width.
"""

import functools
import itertools
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from swm_jax.arrays import Array
from swm_jax.models.backbones.logical_axes import constrain
from swm_jax.models.layout import Layout, Segment

_HIDDEN = -2.3819763e38  # logit of a masked key: Gemma's, finite, so exp() gives 0
_LOGICAL = {"b": "batch", "c": "candidate"}  # segment axes that a mesh may split

KeyValues = dict[str, tuple[Array, Array]]
"""Keys and values [..., s, K, H] by segment; a cache has a leading depth axis too."""

Near = tuple[Bool[Array, "..."], ...] | None
"""A mask for each sight of a segment, broadcastable to [*segment axes, s]."""


def lay(layout: Layout, shared: int, x: Array, *last: str | None) -> Array:
    """Sharding constraint on joined segments; no-op without a mesh."""
    axes = next(iter(layout.values())).axes[:shared]
    return constrain(x, *map(_LOGICAL.get, axes), None, *last)


def shared_axes(layout: Layout) -> int:
    """Number of leading axes common to all segments: 1 for "bi", "bqt", "ba"."""
    columns = zip(*(segment.axes[:-1] for segment in layout.values()))
    return len(
        list(itertools.takewhile(lambda letters: len(set(letters)) == 1, columns))
    )


def join(parts: dict[str, Array], layout: Layout, shared: int) -> Array:
    """Concatenates the segments' tokens along one axis after the shared ones."""

    def flat(name, x):
        return x.reshape(*x.shape[:shared], -1, *x.shape[len(layout[name].axes) :])

    return jnp.concatenate([flat(name, x) for name, x in parts.items()], shared)


def split(
    x: Array, layout: Layout, shared: int, names: tuple[str, ...] | None = None
) -> dict[str, Array]:
    """Inverse of `join`, for the segments in `names` (None: all)."""
    shapes = {name: segment.tokens.shape[:-1] for name, segment in layout.items()}
    sizes = [math.prod(shape[shared:]) for shape in shapes.values()]
    rest = x.shape[shared + 1 :]
    parts = zip(shapes.items(), lax.split(x, sizes, shared))
    return {
        name: part.reshape(*shape, *rest)
        for (name, shape), part in parts
        if names is None or name in names
    }


def softcap(logits: Float[Array, "..."], cap: float) -> Float[Array, "..."]:
    """cap * tanh(logits / cap), in (-cap, cap); the identity for cap 0."""
    return cap * jnp.tanh(logits / cap) if cap else logits


def within(segment: Segment, window: int) -> Near:
    """Sliding-window masks, per sight: keys less than `window` positions back."""
    places = segment.positions[..., None]
    return tuple(places - sight.positions < window for sight in segment.sight)


def attend(
    segment: Segment,
    query: Float[Array, "... N H"],
    keys: KeyValues,
    cap: float,
    near: Near = None,
) -> Float[Array, "... N H"]:
    """One softmax over several key sets, without concatenating them.

    The sets have different leading axes, and a concatenation would copy the image's
    keys for every candidate. So their exponentials share one maximum, and the sum of
    values is divided by the common total at the end.

    Args:
      segment: the segment of the queries.
      query: its queries, scaled.
      keys: keys and values of the segments in sight.
      cap: soft cap of the logits; 0 for none.
      near: sliding-window masks per sight, see `within`.
    """
    kv_heads = next(iter(keys.values()))[0].shape[-2]
    # A single key head is dropped from the products: batch axes then come first
    # on both sides, and no product has to be transposed.
    head = "K" if kv_heads > 1 else ""
    groups = (kv_heads, -1) if kv_heads > 1 else (-1,)
    rows = query.reshape(*query.shape[:-2], *groups, query.shape[-1])
    logits, values = [], []
    for sight, close in zip(segment.sight, near or itertools.repeat(None)):
        key, value = keys[sight.source]
        if sight.select is not None:
            # One-hot products instead of a gather, whose gradient is a slow scatter.
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
        product = softcap(product, cap)
        masks = [mask for mask in (sight.mask, close) if mask is not None]
        if masks:
            mask = functools.reduce(jnp.logical_and, masks)
            # [*segment axes, s] -> [*segment axes, 1 (per head axis), s]
            mask = mask[(..., *(None,) * len(groups), slice(None))]
            product = jnp.where(mask, product, _HIDDEN)
        logits.append(product)
        values.append(value)
    peak = functools.reduce(jnp.maximum, [x.max(-1, keepdims=True) for x in logits])
    # The result does not depend on the peak: stop_gradient saves its backward pass.
    weights = [jnp.exp(x - lax.stop_gradient(peak)) for x in logits]
    total = sum(w.sum(-1, keepdims=True) for w in weights)
    seen: Any = sum(
        jnp.einsum(
            f"{segment.axes}{head}Gs,{sight.axes}s{head}H->{segment.axes}{head}GH",
            weight.astype(query.dtype),
            value,
            preferred_element_type=jnp.float32,
        )
        for sight, weight, value in zip(segment.sight, weights, values)
    )
    # Normalise in float32 after the sum over all key sets.
    return (seen / total).astype(query.dtype).reshape(query.shape)
