"""What candidates look like before anybody has scored them.

White noise cancels itself out over a chunk: sixteen independent steps of 3 cm lead
nowhere. Coloured noise, whose power falls as 1 / frequency^exponent, leads somewhere
(Pinneri et al., "Sample-efficient cross-entropy method", 2020). Strokes are bolder
still: one straight line, then another, which is what "go behind the block, then
push" looks like from above.

Axes: ... any leading axes, H actions of a chunk, A action width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


def coloured_noise(
    key: Key[Array, ""], shape: tuple[int, ...], exponent: float
) -> Float[Array, "... H A"]:
    """Gaussian noise of variance 1 at every step, coloured along the H axis.

    Args:
      shape: (..., H, A).
      exponent: 0 white, 1 pink, 2 red; the larger, the straighter.
    """
    mixing = jnp.asarray(mixing_matrix(shape[-2], exponent))
    white = jax.random.normal(key, (*shape[:-2], mixing.shape[1], shape[-1]))
    return jnp.einsum("hf,...fa->...ha", mixing, white)


def mixing_matrix(horizon: int, exponent: float) -> np.ndarray:
    """float32[H, F] that turns F white coefficients into H coloured steps.

    The columns are cosines and sines of a period of 2 H steps, so that the end of a
    chunk need not meet its beginning; frequency 0 gets the power of 1 / (2 H).
    A product of matrices instead of an FFT: H is small, and every accelerator has it.

    Raises:
      ValueError: a horizon below 1 or a negative exponent.
    """
    if horizon < 1 or exponent < 0:
        raise ValueError(
            f"horizon must be >= 1 and noise exponent >= 0, got {horizon}, {exponent}"
        )
    period = 2 * horizon
    k = np.arange(horizon + 1)
    amplitude = (np.maximum(k, 1) / period) ** (-exponent / 2)
    amplitude[[0, -1]] *= np.sqrt(0.5)  # these two are real: one coefficient each
    angle = 2 * np.pi * np.arange(horizon)[:, None] * k / period
    matrix = np.concatenate(
        [np.cos(angle) * amplitude, (np.sin(angle) * amplitude)[:, 1:-1]], 1
    )
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def strokes(
    key: Key[Array, ""], shape: tuple[int, ...], limit: float
) -> Float[Array, "... H A"]:
    """Two straight lines per chunk: a direction and a speed each, a random bend.

    Args:
      shape: (..., H, A).
      limit: largest speed per action dimension; a direction's fastest stroke
        touches the box.
    """
    *lead, horizon, width = shape
    direction, speed, bend = jax.random.split(key, 3)
    line = jax.random.normal(direction, (*lead, 2, 1, width))
    line /= jnp.abs(line).max(-1, keepdims=True)
    line *= limit * jax.random.uniform(speed, (*lead, 2, 1, 1), minval=0.3, maxval=1.0)
    switch = jax.random.randint(bend, (*lead, 1, 1), 1, horizon + 1)
    first = jnp.arange(horizon)[:, None] < switch
    return jnp.where(first, line[..., 0, :, :], line[..., 1, :, :])
