"""Gradient planners: ascent on the actions from many starts, or after a search.

Source: Semantic World Models (arXiv 2510.19818): SGD on the probability of the desired
answers from a base policy's chunk, the gradient clipped by the norm of the whole chunk,
actions clamped to their limits. Starts are independent: gradient clipping and optimizer
state are per candidate.

Axes: S scenes, N starts, K of them refined, H actions of a chunk, A action width,
Q questions, I steps.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, Key

from swm_jax.arrays import Array
from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.planners.sampling import PUBLISHED, refit_cem
from swm_jax.planning.population import first_population
from swm_jax.planning.preset import REDRAWING, Preset
from swm_jax.planning.search import (
    Evaluate,
    Problem,
    Refit,
    choose,
    count_bad,
    search,
)
from swm_jax.planning.state import PlanInfo, PlannerState


def climb(
    problem: Problem,
    state: PlannerState,
    keys: Key[jax.Array, " S"],
    config: PlannerConfig,
    proposals: Float[Array, "S M H A"] | None = None,
) -> tuple[Float[Array, "S H A"], PlanInfo]:
    """Gradient planner: `config.candidates` starts, `config.iterations` steps.

    Returns the best chunk by `config.score` among the ends of the trajectories and,
    with `config.best_seen`, the best chunk of each; arguments as for `search`.
    """
    population = first_population(keys, state, config, proposals)
    arrived, best, nan_candidates, nan_answers = ascend(
        problem.objective, population, config.iterations, config
    )
    values, bad = problem.evaluate(arrived)
    more_candidates, more_answers = count_bad(bad)
    return choose(
        arrived,
        values,
        best,
        nan_candidates + more_candidates,
        nan_answers + more_answers,
    )


def search_and_climb(
    problem: Problem,
    state: PlannerState,
    keys: Key[jax.Array, " S"],
    config: PlannerConfig,
    proposals: Float[Array, "S M H A"] | None = None,
    *,
    refit: Refit,
) -> tuple[Float[Array, "S H A"], PlanInfo]:
    """Hybrid planner: `search`, then gradient ascent from its `config.refine` best.

    The last population of the search is ranked too, so the result is never worse than
    the search alone. Arguments as for `search`.

    Raises:
      ValueError: `refine` or `refine_steps` is 0.
    """
    if not (config.refine and config.refine_steps):
        raise ValueError(
            "a hybrid planner needs refine and refine_steps >= 1, got "
            f"{config.refine} and {config.refine_steps}"
        )
    _, found = search(problem, state, keys, config, proposals, refit=refit)
    _, index = jax.lax.top_k(found.values, config.refine)
    starts = jnp.take_along_axis(found.candidates, index[..., None, None], 1)
    arrived, best, nan_candidates, nan_answers = ascend(
        problem.objective, starts, config.refine_steps, config
    )
    values, bad = problem.evaluate(arrived)
    more_candidates, more_answers = count_bad(bad)
    return choose(
        jnp.concatenate([found.candidates, arrived], 1),
        jnp.concatenate([found.values, values], 1),
        jnp.concatenate([found.best, best]),
        found.nan_candidates + nan_candidates + more_candidates,
        found.nan_answers + nan_answers + more_answers,
    )


def ascend(
    objective: Evaluate,
    starts: Float[Array, "S N H A"],
    steps: int,
    config: PlannerConfig,
) -> tuple[
    Float[Array, "S M H A"], Float[Array, "I S"], Int[Array, " S"], Int[Array, "S Q"]
]:
    """Projected gradient ascent from every start, in one `lax.scan`.

    A start with a non-finite value or gradient does not move in that step.

    Returns:
      End of each trajectory (M = N), preceded with `config.best_seen` by the best
      chunk of each by the objective (M = 2 N); best value of each step; number of
      candidates with NaN answers, and of those answers per question.
    """
    optimizer = make_optimizer(config)
    each = lambda f: jax.vmap(jax.vmap(f))

    # The gradient of a sum over candidates is each candidate's own gradient.
    def total(actions):
        values, bad = objective(actions)
        return jnp.where(jnp.isfinite(values), values, 0.0).sum(), (values, bad)

    def step(carry, _):
        actions, optimizer_state, best, best_value = carry
        (_, (values, bad)), gradient = jax.value_and_grad(total, has_aux=True)(actions)
        better = values > best_value
        best = jnp.where(better[..., None, None], actions, best)
        best_value = jnp.where(better, values, best_value)
        usable = jnp.isfinite(gradient).all((2, 3)) & jnp.isfinite(values)
        usable = usable[..., None, None]
        descent = jnp.where(usable, -gradient, 0.0)  # optimizers go down
        update, optimizer_state = each(optimizer.update)(descent, optimizer_state)
        moved = jnp.clip(actions + update, -config.action_limit, config.action_limit)
        actions = jnp.where(usable, moved, actions)
        seen = (values.max(1), *count_bad(bad))
        return (actions, optimizer_state, best, best_value), seen

    (arrived, _, best_actions, _), (best, nan_candidates, nan_answers) = jax.lax.scan(
        step,
        (
            starts,
            each(optimizer.init)(starts),
            starts,
            jnp.full(starts.shape[:2], -jnp.inf),
        ),
        length=steps,
    )
    if config.best_seen:
        arrived = jnp.concatenate([best_actions, arrived], 1)
    return arrived, best, nan_candidates.sum(0), nan_answers.sum(0)


def make_optimizer(config: PlannerConfig) -> optax.GradientTransformation:
    """Gradient clipping, then SGD or Adam, for a single chunk [H, A]."""
    make = {"sgd": optax.sgd, "adam": optax.adam}[config.optimizer]
    clip = config.gradient_clip
    limit = optax.clip_by_global_norm(clip) if clip else optax.identity()
    return optax.chain(limit, make(config.learning_rate))


_UPHILL = frozenset(
    {"objective", "optimizer", "learning_rate", "gradient_clip", "best_seen"}
)

PLANNERS = {
    "gradient": Preset(
        climb,
        PlannerConfig(candidates=8, iterations=12, objective="margin", keep=0),
        _UPHILL,
        needs_gradient=True,
    ),
    # One start: the base policy's proposal, or a uniform chunk without one. SGD on
    # probabilities; its end is executed.
    "gradient_published": Preset(
        climb,
        dataclasses.replace(
            PUBLISHED,
            candidates=1,
            elites=0,
            optimizer="sgd",
            learning_rate=0.02,
            gradient_clip=1.0,
            best_seen=False,
        ),
        _UPHILL,
        needs_gradient=True,
    ),
    "hybrid": Preset(
        functools.partial(search_and_climb, refit=refit_cem),
        PlannerConfig(iterations=3, objective="margin", refine=4, refine_steps=6),
        _UPHILL | REDRAWING | {"elites", "momentum", "refine", "refine_steps"},
        needs_gradient=True,
    ),
}
