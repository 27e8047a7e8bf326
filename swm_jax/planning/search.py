"""The loop that MPPI, CEM and best-of-n share: draw, score, refit, draw again.

Everything happens inside one `lax.scan`, so a replan never returns to the host
between iterations. What a planner adds is its `refit`: how the mean and the spread
of the next population follow from the scores of this one.

Axes: S scenes, N candidates, H actions of a chunk, A action width, M proposals of a
base policy, E candidates kept, I iterations.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from swm_jax.planning.noise import coloured_noise, strokes
from swm_jax.planning.protocol import Normalise
from swm_jax.planning.value import SCORES, Score


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Settings of every planner; frozen and hashable, hence static under jit.

    Attributes:
      horizon: H, actions per chunk.
      sub_chunk: questions are asked after every `sub_chunk` actions.
      action_size: A.
      action_limit: candidates are clamped to +- this (metres per step).
      candidates: N, per iteration.
      iterations: I, populations per replan.
      execute: actions carried out before the next replan.
      score: see `swm_jax.planning.value`.
      normalise: "answers", or "vocabulary" for the published probabilities.
      margin_scale: logits at which the score `tanh_margin` saturates.
      init: "noise", or "uniform" over the box (published).
      init_std: spread of the first population (metres per step).
      min_std: the spread never falls below this.
      noise_exponent: colour of the noise, see `coloured_noise`.
      stroke_fraction: share of the first population that are strokes.
      fresh_fraction: share of the first population drawn around standing still
        instead of around the last plan.
      keep: E, best candidates so far that return in the next population.
      around_kept: share of later populations drawn around single kept candidates
        instead of around the mean: keeps several ways of doing it alive.
      warm_start: begin at the last plan, shifted by what has been executed.
      temperature: MPPI, see `temperature_unit`.
      temperature_unit: "value" (published), or "spread": temperature times the
        standard deviation of the population's values, which suits any goal.
      elites: CEM, candidates that the next population is fitted to.
      momentum: CEM, share of the old mean and spread that stays.
    """

    horizon: int = 16
    sub_chunk: int = 8
    action_size: int = 2
    action_limit: float = 0.03
    candidates: int = 64
    iterations: int = 4
    execute: int = 4
    score: Score = "log_probability"
    normalise: Normalise = "answers"
    margin_scale: float = 4.0
    init: Literal["noise", "uniform"] = "noise"
    init_std: float = 0.02
    min_std: float = 0.004
    noise_exponent: float = 2.0
    stroke_fraction: float = 0.4
    fresh_fraction: float = 0.2
    keep: int = 4
    around_kept: float = 0.4
    warm_start: bool = True
    temperature: float = 0.3
    temperature_unit: Literal["value", "spread"] = "spread"
    elites: int = 8
    momentum: float = 0.1

    def __post_init__(self):
        if self.score not in SCORES:
            raise ValueError(f"unknown score {self.score!r}, expected one of {SCORES}")
        for name in ("horizon", "sub_chunk", "action_size", "iterations", "execute"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"planner {name} must be >= 1, got {getattr(self, name)}"
                )
        if not 0 < self.action_limit < float("inf"):
            raise ValueError(
                f"planner action_limit must be positive, got {self.action_limit}"
            )
        if self.horizon % self.sub_chunk or self.execute > self.horizon:
            raise ValueError(
                f"planner horizon {self.horizon} must be a multiple of sub_chunk "
                f"{self.sub_chunk} and at least execute {self.execute}"
            )
        if self.candidates < 2 or max(self.keep, self.elites) > self.candidates:
            raise ValueError(
                f"planner candidates {self.candidates} must be >= 2, >= keep "
                f"{self.keep} and >= elites {self.elites}"
            )
        if self.temperature <= 0:
            raise ValueError(
                f"planner temperature must be positive, got {self.temperature}"
            )

    @property
    def horizons(self) -> tuple[int, ...]:
        """Sub-chunk ends L, 2 L, .., H: when the questions are asked."""
        return tuple(range(self.sub_chunk, self.horizon + 1, self.sub_chunk))

    @property
    def candidates_per_replan(self) -> int:
        return self.candidates * self.iterations


@struct.dataclass
class PlannerState:
    """What one replan leaves to the next.

    Attributes:
      plan: float32[S, H, A], the last plan, shifted by what has been executed.
      warm: bool[S], False before a scene's first replan.
    """

    plan: Float[Array, "S H A"]
    warm: Bool[Array, " S"]


@struct.dataclass
class PlanInfo:
    """What a replan saw.

    Attributes:
      value: value of the returned chunk.
      values: values of the last population, -inf where an answer was NaN.
      candidates: the last population.
      best: best value of each population.
      nan_candidates: candidates ignored because an answer was NaN, all iterations.
    """

    value: Float[Array, " S"]
    values: Float[Array, "S N"]
    candidates: Float[Array, "S N H A"]
    best: Float[Array, "I S"]
    nan_candidates: Int[Array, " S"]


Evaluate = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
Refit = Callable[..., tuple[jax.Array, jax.Array]]


def search(
    evaluate: Evaluate,
    refit: Refit,
    state: PlannerState,
    key: Key[Array, ""],
    config: PlannerConfig,
    proposals: Float[Array, "S M H A"] | None = None,
) -> tuple[Float[Array, "S H A"], PlanInfo]:
    """Returns the best chunk of the last population.

    Args:
      evaluate: actions[S, N, H, A] -> (values[S, N], mask of NaN candidates[S, N]).
      refit: (candidates, values, mean, std, config) -> (mean, std), [S, H, A] each.
      proposals: chunks of a base policy, put into the first population.
    """
    warm = jnp.where(state.warm[:, None, None], state.plan, 0.0)
    start, key = jax.random.split(key)
    population = _first(start, warm, state.warm, config, proposals)

    def iteration(carry, key):
        population, mean, std, _, _ = carry
        values, bad = evaluate(population)
        top, index = jax.lax.top_k(values, max(config.keep, 1))
        kept = jnp.take_along_axis(population, index[..., None, None], 1)
        mean, std = refit(population, values, mean, std, config)
        std = jnp.clip(std, config.min_std, config.action_limit)
        following = _next(key, mean, std, kept, config)
        return (following, mean, std, population, values), (top[:, 0], bad.sum(1))

    # The world model is traced once; the last iteration draws a population in vain.
    values = jnp.zeros(population.shape[:2])
    std = jnp.full_like(warm, config.init_std)
    (_, _, _, population, values), (best, bad) = jax.lax.scan(
        iteration,
        (population, warm, std, population, values),
        jax.random.split(key, config.iterations),
    )
    chosen = jnp.argmax(values, 1)[:, None]
    plan = jnp.take_along_axis(population, chosen[..., None, None], 1)[:, 0]
    return plan, PlanInfo(
        value=jnp.take_along_axis(values, chosen, 1)[:, 0],
        values=values,
        candidates=population,
        best=best,
        nan_candidates=bad.sum(0),
    )


def shift(
    plan: Float[Array, "S H A"], executed: int, config: PlannerConfig
) -> PlannerState:
    """The warm start of the next replan: what is left, then its last action on."""
    steps = jnp.minimum(jnp.arange(config.horizon) + executed, config.horizon - 1)
    warm = jnp.full(plan.shape[:1], config.warm_start)
    return PlannerState(plan=plan[:, steps], warm=warm)


def _first(key, warm, is_warm, config, proposals) -> Float[Array, "S N H A"]:
    """Last plan, standing still, proposals, strokes, noise around both."""
    scenes = warm.shape[0]
    shape = (scenes, config.candidates, config.horizon, config.action_size)
    bold, fine = jax.random.split(key)
    if config.init == "uniform":
        cloud = jax.random.uniform(
            fine, shape, minval=-config.action_limit, maxval=config.action_limit
        )
        around = jnp.zeros((1, config.candidates))
    else:
        cloud = config.init_std * coloured_noise(fine, shape, config.noise_exponent)
        fresh = round(config.fresh_fraction * config.candidates)
        around = (jnp.arange(config.candidates) >= fresh)[None]
    population = cloud + around[..., None, None] * warm[:, None]
    count = round(config.stroke_fraction * config.candidates)
    if count:
        lines = strokes(bold, (scenes, count, *shape[2:]), config.action_limit)
        population = population.at[:, shape[1] - count :].set(lines)
    fixed = [warm[:, None], jnp.zeros_like(warm)[:, None]]
    fixed = fixed[: 2 if config.init == "noise" else 0]
    if proposals is not None:
        fixed.append(proposals)
    if fixed:
        given = jnp.concatenate(fixed, 1)[:, : config.candidates]
        population = population.at[:, : given.shape[1]].set(given)
    return jnp.clip(population, -config.action_limit, config.action_limit)


def _next(key, mean, std, kept, config) -> Float[Array, "S N H A"]:
    """The kept candidates, then noise around the mean or around one of them."""
    scenes = mean.shape[0]
    drawn = config.candidates - config.keep
    shape = (scenes, drawn, config.horizon, config.action_size)
    noise = coloured_noise(key, shape, config.noise_exponent)
    centre = jnp.broadcast_to(mean[:, None], shape)
    local = round(config.around_kept * drawn) if config.keep else 0
    if local:
        # A single way of doing it needs finer noise than the spread over all ways.
        turns = jnp.arange(local) % config.keep
        centre = centre.at[:, :local].set(kept[:, turns])
        fine = jnp.minimum(std, config.init_std / 2)[:, None]
        spread = jnp.broadcast_to(std[:, None], shape).at[:, :local].set(fine)
    else:
        spread = std[:, None]
    population = centre + spread * noise
    if config.keep:
        population = jnp.concatenate([kept, population], 1)
    return jnp.clip(population, -config.action_limit, config.action_limit)
