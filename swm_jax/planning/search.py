"""Population-based search, shared by MPPI, CEM and best-of-n: draw, score, refit.

All iterations run in one `lax.scan` on the device. A planner is defined by its `refit`,
which computes mean and spread of the next population from the values of this one.

Axes: S scenes, N candidates, H actions of a chunk, A action width, Q questions,
M proposals of a base policy, I iterations.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from swm_jax.arrays import Array
from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.noise import split_each
from swm_jax.planning.population import first_population, next_population
from swm_jax.planning.state import PlanInfo, PlannerState

Evaluate = Callable[
    [Float[Array, "S N H A"]], tuple[Float[Array, "S N"], Bool[Array, "S N Q"]]
]
Refit = Callable[..., tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Objective functions of one replan.

    Attributes:
      evaluate: actions[S, N, H, A] -> values[S, N], -inf where an answer with nonzero
        weight is NaN, and a mask [S, N, Q] of those answers.
      objective: the same with the score for gradient ascent; differentiable.
    """

    evaluate: Evaluate
    objective: Evaluate


def search(
    problem: Problem,
    state: PlannerState,
    keys: Key[jax.Array, " S"],
    config: PlannerConfig,
    proposals: Float[Array, "S M H A"] | None = None,
    *,
    refit: Refit,
) -> tuple[Float[Array, "S H A"], PlanInfo]:
    """Returns the best chunk of the last population, and diagnostics.

    Args:
      problem: objective functions.
      state: of the previous replan.
      keys: one per scene.
      config: settings.
      proposals: chunks of a base policy, put into the first population.
      refit: (candidates, values, mean, std, config) -> (mean, std), [S, H, A] each.
    """
    start, rest = split_each(keys, 2)
    population = first_population(start, state, config, proposals)
    scenes, candidates = population.shape[:2]

    def iteration(carry, keys_and_turn):
        population, mean, std, _, _ = carry
        keys, turn = keys_and_turn
        values, bad = problem.evaluate(population)
        # At least one, for the diagnostics' best value.
        top, index = jax.lax.top_k(values, max(config.keep, 1))
        kept = jnp.take_along_axis(population, index[..., None, None], 1)
        mean, std = refit(population, values, mean, std, config)
        std = jnp.clip(std, config.min_std, config.action_limit)
        # The population drawn at turn iterations - 2 is the last one scored.
        with_mean = turn == config.iterations - 2
        following = next_population(keys, mean, std, kept, config, with_mean)
        seen = (top[:, 0], *count_bad(bad))
        return (following, mean, std, population, values), seen

    # In one scan the world model is traced once; the last draw is unused.
    warm = jnp.where(state.warm[:, None, None], state.plan, 0.0)
    std = jnp.full_like(warm, config.init_std)
    turns = jnp.arange(config.iterations)
    (_, _, _, population, values), (best, nan_candidates, nan_answers) = jax.lax.scan(
        iteration,
        (population, warm, std, population, jnp.zeros((scenes, candidates))),
        (split_each(rest, config.iterations), turns),
    )
    return choose(population, values, best, nan_candidates.sum(0), nan_answers.sum(0))


def choose(
    candidates: Float[Array, "S N H A"],
    values: Float[Array, "S N"],
    best: Float[Array, "I S"],
    nan_candidates: Int[Array, " S"],
    nan_answers: Int[Array, "S Q"],
) -> tuple[Float[Array, "S H A"], PlanInfo]:
    """The best candidate (the first one if all values are -inf), and diagnostics."""
    chosen = jnp.argmax(values, 1)[:, None]
    plan = jnp.take_along_axis(candidates, chosen[..., None, None], 1)[:, 0]
    return plan, PlanInfo(
        value=jnp.take_along_axis(values, chosen, 1)[:, 0],
        values=values,
        candidates=candidates,
        best=best,
        nan_candidates=nan_candidates,
        nan_answers=nan_answers,
        clamped_proposals=jnp.zeros_like(nan_candidates),
    )


def count_bad(
    bad: Bool[Array, "S N Q"],
) -> tuple[Int[Array, " S"], Int[Array, "S Q"]]:
    """Number of ignored candidates, and number of bad answers per question."""
    return bad.any(-1).sum(1), bad.sum(1)
