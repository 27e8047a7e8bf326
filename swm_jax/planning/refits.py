"""How the next population follows from the scores of this one, per planner.

    best_of_n  stays: one population, take the best; the floor that iterating must beat
    cem        fitted to the best few, the elites
    mppi       fitted to all, weighted by softmax(value / temperature)

Sources: CEM as in Pinneri et al., "Sample-efficient cross-entropy method for
real-time planning" (iCEM), 2020: coloured noise, elites kept from one population to
the next, the best candidate executed. MPPI: Williams et al., "Model predictive path
integral control", 2015, in the form of Semantic World Models (arXiv 2510.19818): mean
and spread per (step, dimension) are refitted, and the best candidate of the last
population is executed.

Axes: S scenes, N candidates, E elites, H actions of a chunk, A action width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.planning.config import PlannerConfig


def refit_nothing(
    candidates: Float[Array, "S N H A"],
    values: Float[Array, "S N"],
    mean: Float[Array, "S H A"],
    std: Float[Array, "S H A"],
    config: PlannerConfig,
) -> tuple[Float[Array, "S H A"], Float[Array, "S H A"]]:
    """Leaves mean and spread alone; best-of-n has a single iteration."""
    del candidates, values, config
    return mean, std


def refit_cem(
    candidates: Float[Array, "S N H A"],
    values: Float[Array, "S N"],
    mean: Float[Array, "S H A"],
    std: Float[Array, "S H A"],
    config: PlannerConfig,
) -> tuple[Float[Array, "S H A"], Float[Array, "S H A"]]:
    """Mean and standard deviation of the elites, with momentum.

    Ignored candidates (-inf) are never elites, unless fewer than E are left.
    """
    top, index = jax.lax.top_k(values, config.elites)
    elites = jnp.take_along_axis(candidates, index[..., None, None], 1)
    # Where fewer than E candidates count, the best one stands in for the others.
    elites = jnp.where(jnp.isfinite(top)[..., None, None], elites, elites[:, :1])
    keep = config.momentum
    return (
        keep * mean + (1 - keep) * elites.mean(1),
        keep * std + (1 - keep) * elites.std(1),
    )


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
