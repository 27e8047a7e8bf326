"""Population-based planners: update rules of mean and standard deviation, presets.

    best_of_n  no update: one population, the baseline for iterated planners
    cem        mean and std of the elites
    mppi       mean and std of all, weighted by softmax(value / temperature)

Sources: CEM as in Pinneri et al., "Sample-efficient cross-entropy method for real-time
planning" (iCEM), 2020: coloured noise, elites kept in the next population, the best
candidate executed. MPPI: Williams et al., "Model predictive path integral control",
2015, in the form of Semantic World Models (arXiv 2510.19818): mean and standard
deviation per (step, dimension), the best candidate of the last population executed.

Axes: S scenes, N candidates, E elites, H actions of a chunk, A action width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.preset import REDRAWING, Preset, searching


def refit_nothing(
    candidates: Float[Array, "S N H A"],
    values: Float[Array, "S N"],
    mean: Float[Array, "S H A"],
    std: Float[Array, "S H A"],
    config: PlannerConfig,
) -> tuple[Float[Array, "S H A"], Float[Array, "S H A"]]:
    """Returns mean and std unchanged, for planners with one iteration."""
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

    Ignored candidates (-inf) are no elites; if fewer than E are left, copies of the
    best one take their places.
    """
    top, index = jax.lax.top_k(values, config.elites)
    elites = jnp.take_along_axis(candidates, index[..., None, None], 1)
    elites = jnp.where(jnp.isfinite(top)[..., None, None], elites, elites[:, :1])
    keep = config.momentum
    return (
        keep * mean + (1 - keep) * elites.mean(1),
        keep * std + (1 - keep) * elites.std(1),
    )


def softmax_weights(
    values: Float[Array, "S N"], config: PlannerConfig
) -> Float[Array, "S N"]:
    """Softmax over candidates; ignored candidates (-inf) have weight 0.

    If all candidates of a scene are ignored, the weights are uniform.
    """
    finite = jnp.isfinite(values)
    any_finite = finite.any(1, keepdims=True)
    finite = finite | ~any_finite
    values = jnp.where(any_finite, jnp.where(finite, values, 0.0), 0.0)
    temperature = config.temperature
    if config.temperature_unit == "spread":
        spread = jnp.std(values, 1, where=finite, keepdims=True)
        # 1e-6: equal values give uniform weights instead of 0 / 0.
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


_ONE_LOOK = PlannerConfig(candidates=256, iterations=1)
_CEM = REDRAWING | {"elites", "momentum"}
_MPPI = REDRAWING | {"temperature", "temperature_unit"}

# Settings of Semantic World Models (arXiv 2510.19818).
PUBLISHED = PlannerConfig(
    candidates=64,
    iterations=10,
    execute=2,
    score="probability",
    normalise="vocabulary",
    init="uniform",
    min_std=0.0,
    noise_exponent=0.0,
    stroke_fraction=0.0,
    fresh_fraction=0.0,
    keep=0,
    warm_start=False,
    temperature=1.5,
    temperature_unit="value",
)

PLANNERS = {
    "random": Preset(
        None,
        PlannerConfig(candidates=2, iterations=1, keep=0, elites=0, init="uniform"),
    ),
    "random_shooting": searching(
        refit_nothing,
        dataclasses.replace(
            _ONE_LOOK, init="uniform", stroke_fraction=0.0, keep=0, warm_start=False
        ),
        uses=(),
    ),
    "best_of_n": searching(refit_nothing, _ONE_LOOK, uses=()),
    "best_of_proposals": searching(
        refit_nothing,
        dataclasses.replace(_ONE_LOOK, candidates=64, init="proposals", keep=0),
        uses=(),
    ),
    "mppi": searching(refit_mppi, uses=_MPPI),
    "mppi_published": searching(refit_mppi, PUBLISHED, _MPPI),
    "cem": searching(refit_cem, uses=_CEM),
    "icem": searching(
        refit_cem,
        PlannerConfig(
            init_std=0.015,  # half of the action limit
            min_std=0.0,
            stroke_fraction=0.0,
            fresh_fraction=0.0,
            around_kept=0.0,
            elites=10,
            keep=3,
            carry=3,
            mean_last=True,
        ),
        _CEM,
    ),
}
