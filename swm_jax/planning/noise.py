"""What candidates look like before anybody has scored them.

White noise cancels itself out over a chunk: sixteen independent steps of 3 cm lead
nowhere. Coloured noise, whose power falls as 1 / frequency^exponent, leads somewhere
(Pinneri et al., "Sample-efficient cross-entropy method", 2020). Strokes are bolder
still: one straight line, then another, which is what "go behind the block, then
push" looks like from above.

Every scene draws from a key of its own, so that its noise does not depend on what is
planned beside it: `vmap` these functions over the keys of scenes.

Axes: ... any leading axes, S scenes, H actions of a chunk, A action width.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, Key

from swm_jax.arrays import Array


@jax.jit
def fold_in_each(
    keys: Key[jax.Array, "*S"], data: Integer[Array, " S"]
) -> Key[jax.Array, " S"]:
    """Keys of S scenes, one number folded into each.

    Args:
      keys: one for each scene, or a single one for all.
      data: such as the seed of each episode, or how often each was planned.
    """
    axis = 0 if keys.ndim else None
    return jax.vmap(jax.random.fold_in, (axis, 0))(keys, data)


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
    """The key of every scene split into `count`."""
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys)


def coloured_noise(
    key: Key[jax.Array, ""], shape: tuple[int, ...], exponent: float
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
    key: Key[jax.Array, ""], shape: tuple[int, ...], limit: float
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
