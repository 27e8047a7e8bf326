"""Random action chunks: coloured noise, strokes, and per-scene random keys.

White noise averages out over a chunk: sixteen independent steps of 3 cm have almost no
net displacement. Coloured noise, whose power falls as 1 / frequency^exponent, does not
(Pinneri et al., "Sample-efficient cross-entropy method", 2020). Strokes are two
straight lines, such as "go behind the block, then push".

Each scene has its own key, so that its noise is independent of the rest of the batch:
`vmap` these functions over the keys of scenes.

Axes: ... any leading axes, S scenes, H actions of a chunk, A action width.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, Key

from swm_jax import prng
from swm_jax.arrays import Array


@jax.jit
def fold_in_each(
    keys: Key[jax.Array, "*S"], data: Integer[Array, " S"]
) -> Key[jax.Array, " S"]:
    """Folds one number per scene into the scenes' keys.

    Args:
      keys: one per scene, or a single one for all.
      data: for example the seed of each episode, or its replan count.
    """
    axis = 0 if keys.ndim else None
    return jax.vmap(prng.fold_in, (axis, 0))(keys, data)


@functools.partial(jax.jit, static_argnums=1)
def scene_keys(key: Key[jax.Array, "*S"], scenes: int) -> Key[jax.Array, " S"]:
    """One key per scene: keys [S] as they are, a single key with the index folded in.

    Raises:
      ValueError: keys of another number of scenes.
    """
    if key.ndim and key.shape != (scenes,):
        raise ValueError(f"{key.shape} keys for {scenes} scenes, expected one each")
    return key if key.ndim else fold_in_each(key, jnp.arange(scenes))


def split_each(keys: Key[jax.Array, " S"], count: int) -> Key[jax.Array, "count S"]:
    """Splits the key of every scene into `count` keys."""
    return jax.vmap(lambda key: prng.split(key, count), out_axes=1)(keys)


def coloured_noise(
    key: Key[jax.Array, ""], shape: tuple[int, ...], exponent: float
) -> Float[Array, "... H A"]:
    """Gaussian noise of variance 1 at every step, coloured along the H axis.

    Args:
      shape: (..., H, A).
      exponent: 0 white, 1 pink, 2 red; larger is smoother.
    """
    mixing = jnp.asarray(mixing_matrix(shape[-2], exponent))
    white = prng.normal(key, (*shape[:-2], mixing.shape[1], shape[-1]))
    return jnp.einsum("hf,...fa->...ha", mixing, white)


def mixing_matrix(horizon: int, exponent: float) -> np.ndarray:
    """float32[H, F] that turns F white coefficients into H coloured steps.

    The columns are cosines and sines of period 2 H, so that a chunk is not forced to be
    periodic; frequency 0 has the power of frequency 1 / (2 H). A matrix product rather
    than an FFT, because H is small.

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
    # The terms of frequency 0 and of the Nyquist frequency have no sine: one
    # coefficient, half the power.
    amplitude[[0, -1]] *= np.sqrt(0.5)
    angle = 2 * np.pi * np.arange(horizon)[:, None] * k / period
    matrix = np.concatenate(
        [np.cos(angle) * amplitude, (np.sin(angle) * amplitude)[:, 1:-1]], 1
    )
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def strokes(
    key: Key[jax.Array, ""], shape: tuple[int, ...], limit: float
) -> Float[Array, "... H A"]:
    """Chunks of two straight lines with random directions, speeds and bend.

    Args:
      shape: (..., H, A).
      limit: largest speed per action dimension; speeds are 0.3 to 1 times it in the
        largest dimension.
    """
    *lead, horizon, width = shape
    direction, speed, bend = prng.split(key, 3)
    line = prng.normal(direction, (*lead, 2, 1, width))
    line /= jnp.abs(line).max(-1, keepdims=True)
    line *= limit * prng.uniform(speed, (*lead, 2, 1, 1), minval=0.3, maxval=1.0)
    # 1 .. horizon; at `horizon` the chunk is a single line.
    switch = prng.randint(bend, (*lead, 1, 1), 1, horizon + 1)
    first = jnp.arange(horizon)[:, None] < switch
    return jnp.where(first, line[..., 0, :, :], line[..., 1, :, :])
