"""Norms, RoPE and the loop over layers, for all image towers and decoders.

Parameters of all layers of a tower are stacked on a leading depth axis, as
big_vision's scanned models store them; a layer is a pure function of its slice.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from swm_jax.arrays import Array
from swm_jax.models.config import ModelConfig

_POLICIES = {
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def layer_norm(params: dict, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """LayerNorm with eps 1e-6, in float32."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)
    return (y * params["scale"] + params["bias"]).astype(x.dtype)


def rms_norm(
    scale: Float[Array, " D"] | float, x: Float[Array, "... D"]
) -> Float[Array, "... D"]:
    """RMSNorm with eps 1e-6 that multiplies by (1 + scale), in float32."""
    y = x.astype(jnp.float32)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)
    # Gemma stores scale - 1; cast back only after the product, as published.
    return (y * (1.0 + scale)).astype(x.dtype)


def rope_table(
    positions: Int[Array, "..."],
    width: int,
    base: float = 10_000.0,
    scale: float = 1.0,
) -> tuple[Float[Array, "... 1 h"], Float[Array, "... 1 h"]]:
    """Sine and cosine of split-half RoPE for heads of `width`.

    Args:
      positions: of the tokens.
      width: of a head.
      base: pair i rotates by base^(-2 i / width) per position.
      scale: positions are divided by it (linear scaling to longer contexts).
    """
    frequency = base ** -(jnp.arange(width // 2) * (2.0 / width)) / scale
    # [..., 1, h]: the axis of size 1 broadcasts over heads. float32, because bfloat16
    # cannot represent positions above 256 exactly.
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    return jnp.sin(angle), jnp.cos(angle)


def rope(x: Float[Array, "... N H"], table) -> Float[Array, "... N H"]:
    """Rotates (first half, second half) pairs of the last axis, in float32."""
    sin, cos = table
    first, second = jnp.split(x.astype(jnp.float32), 2, -1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, -1).astype(x.dtype)


def split_layers(params: Any) -> list[Any]:
    """The layers of a tree stacked on axis 0."""
    leaves, tree = jax.tree.flatten(params)
    depth = leaves[0].shape[0]
    # One split, whose gradient is one concatenation; indexing would give a scatter per
    # layer.
    parts = [[p[0] for p in lax.split(leaf, [1] * depth)] for leaf in leaves]
    return [jax.tree.unflatten(tree, layer) for layer in zip(*parts)]


def rematerialised(layer: Callable, remat: str) -> Callable:
    """Wraps a layer in the rematerialisation policy of the config."""
    return layer if remat == "none" else jax.checkpoint(layer, policy=_POLICIES[remat])


def run_layers(layer: Callable, params: Any, x: Any, config: ModelConfig) -> Any:
    """Applies every layer to x, scanned or unrolled."""
    layer = rematerialised(layer, config.remat)
    if config.scan:
        return lax.scan(lambda x, p: (layer(p, x), None), x, params)[0]
    for slice_ in split_layers(params):
        x = layer(slice_, x)
    return x
