"""MPPI: the next population is fitted to softmax(value / temperature).

Source: Williams et al., "Model predictive path integral control", 2015, in the form
of Semantic World Models (arXiv 2510.19818): mean and spread per (step, dimension)
are refitted, and the best candidate of the last population is executed.

Axes: S scenes, N candidates, H actions of a chunk, A action width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.planning.config import PlannerConfig


def softmax_weights(
    values: Float[Array, "S N"], config: PlannerConfig
) -> Float[Array, "S N"]:
    """Softmax over candidates; ignored candidates (-inf) weigh nothing.

    If every candidate of a scene is ignored, all weigh the same.
    """
    finite = jnp.isfinite(values)
    any_finite = finite.any(1, keepdims=True)
    finite = finite | ~any_finite
    values = jnp.where(any_finite, jnp.where(finite, values, 0.0), 0.0)
    temperature = config.temperature
    if config.temperature_unit == "spread":
        spread = jnp.std(values, 1, where=finite, keepdims=True)
        temperature = temperature * jnp.maximum(spread, 1e-6)
    return jax.nn.softmax(jnp.where(finite, values / temperature, -jnp.inf), 1)


def refit_mppi(
    candidates: Float[Array, "S N H A"],
    values: Float[Array, "S N"],
    mean: Float[Array, "S H A"],
    std: Float[Array, "S H A"],
    config: PlannerConfig,
) -> tuple[Float[Array, "S H A"], Float[Array, "S H A"]]:
    """Weighted mean and standard deviation per step and dimension."""
    del mean, std
    weights = softmax_weights(values, config)
    mean = jnp.einsum("sn,snha->sha", weights, candidates)
    deviation = jnp.square(candidates - mean[:, None])
    return mean, jnp.sqrt(jnp.einsum("sn,snha->sha", weights, deviation))
