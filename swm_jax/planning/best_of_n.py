"""Best-of-n: one population, take the best. The floor that iterating must beat.

Axes: S scenes, N candidates, H actions of a chunk, A action width.
"""

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
