"""Images as the towers want them: resized to the model's side, values in [-1, 1]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def preprocess_image(
    image: UInt8[Array, "*lead h w 3"], size: int
) -> Float[Array, "*lead size size 3"]:
    """Maps 0..255 to -1..1; other sizes are resized (antialiased, not cropped).

    Raises:
      ValueError: not uint8, or the last axis is not RGB.
    """
    if image.dtype != jnp.uint8 or image.ndim < 3 or image.shape[-1] != 3:
        raise ValueError(
            f"an image must be uint8[..., height, width, 3], got "
            f"{image.dtype}{list(image.shape)}"
        )
    x = jnp.asarray(image).astype(jnp.float32)
    if x.shape[-3:-1] != (size, size):
        x = jax.image.resize(x, (*x.shape[:-3], size, size, 3), "bilinear")
    return x / 127.5 - 1.0
