"""What the renderers of both worlds share: layers, windows in them, light, pixels.

A layer is an array with the rows and columns of the image, or of a window in it. On
CPUs an object is drawn into the window around its projection, on accelerators into the
whole layer, which avoids gathers.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Shaped, UInt8

from swm_jax.arrays import Array
from swm_jax.envs.scene import AnyScene

_CHUNK = 64  # scenes rendered at once on an accelerator


def check_size(height: Any, width: Any, supersample: Any = 1) -> None:
    """Raises ValueError unless all are positive ints."""
    for name, value in (
        ("height", height),
        ("width", width),
        ("supersample", supersample),
    ):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} is {value!r}, expected a positive int")


def over_scenes(draw: Callable[..., Array], scene: AnyScene) -> Shaped[Array, "..."]:
    """Maps `draw(one scene, windowed)` over all leading axes.

    On CPUs one scene after the other, which keeps the working set in cache; on
    accelerators in chunks side by side.
    """
    leading = scene.batch_shape
    one_by_one = functools.partial(draw, windowed=True)
    whole = functools.partial(draw, windowed=False)
    if not leading:
        return lax.platform_dependent(scene, cpu=one_by_one, default=whole)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(leading) :]), scene)
    images = lax.platform_dependent(
        flat,
        cpu=lambda s: lax.map(one_by_one, s),
        default=lambda s: lax.map(whole, s, batch_size=_CHUNK),
    )
    return images.reshape(*leading, *images.shape[1:])


def window_of(layer: Array, start: tuple, shape: tuple[int, ...]) -> Array:
    """The window of a layer whose first row and column are `start`."""
    # Without this, vmap makes a gather of a slice that is the whole.
    return layer if layer.shape == shape else lax.dynamic_slice(layer, start, shape)


def with_window(layer: Array, patch: Array, start: tuple) -> Array:
    """The layer with a window replaced."""
    if layer.shape == patch.shape:
        return patch
    return lax.dynamic_update_slice(layer, patch, start)


def lambert(normal: Float[Array, "... 3"], look: Any) -> Float[Array, "... 3"]:
    """Light that a face sends back, per colour."""
    towards = -jnp.asarray(look.light_direction, jnp.float32)
    towards /= jnp.linalg.norm(towards)
    cosine = jnp.maximum((normal * towards).sum(-1, keepdims=True), 0.0)
    ambient = jnp.asarray(look.ambient_rgb, jnp.float32)
    diffuse = jnp.asarray(look.diffuse_rgb, jnp.float32)
    return jnp.minimum(ambient + diffuse * cosine, 1.0)


def to_pixels(
    colours: Float[Array, "hk wk 3"], h: int, w: int, k: int
) -> UInt8[Array, "h w 3"]:
    """Means of k x k samples in 0..1."""
    if k > 1:
        colours = colours.reshape(h, k, w, k, 3).mean((1, 3))
    # Rounded first: XLA on CPUs sometimes rounds and sometimes truncates in casts.
    return jnp.round(colours * 255.0).astype(jnp.uint8)
