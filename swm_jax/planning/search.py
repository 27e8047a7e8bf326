"""The loop that MPPI, CEM and best-of-n share: draw, score, refit, draw again.

Everything happens inside one `lax.scan`, so a replan never returns to the host
between iterations. What a planner adds is its `refit`: how the mean and the spread
of the next population follow from the scores of this one.

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
    """What a planner may ask during one replan.

    Attributes:
      evaluate: actions[S, N, H, A] -> values[S, N], -inf where an answer that counts
        is NaN, and which questions[S, N, Q] were answered so.
      objective: the same for what gradients climb; its values are differentiable.
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
    """Returns the best chunk of the last population.

    Args:
      keys: one per scene.
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
        top, index = jax.lax.top_k(values, max(config.keep, 1))
        kept = jnp.take_along_axis(population, index[..., None, None], 1)
        mean, std = refit(population, values, mean, std, config)
        std = jnp.clip(std, config.min_std, config.action_limit)
        with_mean = turn == config.iterations - 2
        following = next_population(keys, mean, std, kept, config, with_mean)
        seen = (top[:, 0], *count_bad(bad))
        return (following, mean, std, population, values), seen

    # The world model is traced once; the last iteration draws a population in vain.
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
    """The best candidate, the first one if all are ignored; and what was seen."""
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
    """Candidates ignored, and how many of them each question was a reason for."""
    return bad.any(-1).sum(1), bad.sum(1)
