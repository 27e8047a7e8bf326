"""Image preprocessing: resize to the model's input size, scale to [-1, 1].

"bilinear" is `jax.image.resize` in float32. "bicubic" equals the image processor of the
published checkpoints bit by bit: Pillow's antialiased cubic filter in fixed point,
columns first and then rows, rounded to uint8 levels after each. Pillow 13 and later
resize the rows of tall images first, which rounds differently.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from swm_jax.arrays import Array

_SUPPORT = 2.0  # pixels to either side that the cubic filter reaches
_PRECISION = 22  # fractional bits of a filter weight; 255 of them fit 32 bits


def preprocess_image(
    image: UInt8[Array, "*lead h w 3"], size: int, resize: str = "bilinear"
) -> Float[Array, "*lead size size 3"]:
    """Resizes (antialiased, aspect ratio not kept) and maps 0..255 to -1..1.

    Args:
      image: RGB.
      size: side of the result.
      resize: "bilinear" or "bicubic" (see the top of this file).

    Raises:
      ValueError: not uint8, or the last axis is not RGB.
    """
    if image.dtype != jnp.uint8 or image.ndim < 3 or image.shape[-1] != 3:
        raise ValueError(
            f"an image must be uint8[..., height, width, 3], got "
            f"{image.dtype}{list(image.shape)}"
        )
    if resize == "bicubic":
        x = jnp.moveaxis(jnp.asarray(image).astype(jnp.int32), -1, -3)
        x = _bicubic(x, size)  # columns
        x = _bicubic(x.swapaxes(-1, -2), size).swapaxes(-1, -2)  # rows
        x = jnp.moveaxis(x, -3, -1).astype(jnp.float32)
    else:
        x = jnp.asarray(image).astype(jnp.float32)
        if x.shape[-3:-1] != (size, size):
            x = jax.image.resize(x, (*x.shape[:-3], size, size, 3), "bilinear")
    return x / 127.5 - 1.0


def _bicubic(x: Int[Array, "... n"], size: int) -> Int[Array, "... size"]:
    """Resizes the last axis of levels 0..255 in integer arithmetic."""
    if x.shape[-1] == size:
        return x
    taps, weights = bicubic_taps(x.shape[-1], size)
    # Half a level first, so that the shift below rounds to nearest.
    total = jnp.full((*x.shape[:-1], size), 1 << (_PRECISION - 1), jnp.int32)
    for tap, weight in zip(taps, weights):
        total += jnp.take(x, tap, axis=-1) * weight
    return jnp.clip(total >> _PRECISION, 0, 255)


def bicubic_taps(
    count: int, size: int
) -> tuple[Int[np.ndarray, "k size"], Int[np.ndarray, "k size"]]:
    """Filter taps for resizing `count` pixels to `size`.

    Returns:
      Source indices and fixed-point weights of each new pixel; unused taps have
      weight 0.
    """
    scale = count / size
    stretch = max(scale, 1.0)  # the filter widens when an image shrinks
    reach = _SUPPORT * stretch
    width = math.ceil(reach) * 2 + 1
    taps = np.zeros((width, size), np.int32)
    weights = np.zeros((width, size), np.int32)
    for i in range(size):
        centre = (i + 0.5) * scale  # in source pixels, whose centres are at k + 0.5
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), count)
        kernel = [_cubic((tap - centre + 0.5) / stretch) for tap in range(first, last)]
        total = sum(kernel)
        taps[: last - first, i] = np.arange(first, last)
        for k, value in enumerate(kernel):
            # Round half away from zero, as Pillow does; int() truncates.
            level = value / total * (1 << _PRECISION)
            weights[k, i] = int(level + math.copysign(0.5, level))
    return taps, weights


def _cubic(x: float, a: float = -0.5) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0
