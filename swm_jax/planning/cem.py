"""CEM: the next population is fitted to the best few of this one.

Source: the cross-entropy method as in Pinneri et al., "Sample-efficient cross-entropy
method for real-time planning" (iCEM), 2020: coloured noise, elites kept from one
population to the next, the best candidate executed.

Axes: S scenes, N candidates, E elites, H actions of a chunk, A action width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.planning.config import PlannerConfig


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
