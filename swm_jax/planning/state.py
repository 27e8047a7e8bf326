"""Planner state carried between replans, and diagnostics of a replan.

Axes: S scenes, N candidates, H actions of a chunk, A action width, Q questions,
I iterations, E candidates carried over.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int

from swm_jax.arrays import Array
from swm_jax.planning.config import PlannerConfig


class PlannerState(struct.PyTreeNode):
    """State carried from one replan to the next.

    Attributes:
      plan: float32[S, H, A], the last plan, shifted by the executed actions.
      warm: bool[S], whether to start from `plan`; False before the first replan.
      kept: float32[S, E, H, A], best candidates of the last population, shifted; E is
        `carry`.
      stage: int32[S], current stage of a staged goal; 0 for other goals.
    """

    plan: Float[Array, "S H A"]
    warm: Bool[Array, " S"]
    kept: Float[Array, "S E H A"]
    stage: Int[Array, " S"]


class PlanInfo(struct.PyTreeNode):
    """Diagnostics of a replan.

    Attributes:
      value: value of the returned chunk, -inf if every candidate was ignored.
      values: values of the last population, -inf where an answer was NaN.
      candidates: the last population.
      best: best value of each iteration (population, or gradient step).
      nan_candidates: number of candidates ignored for NaN answers, all iterations.
      nan_answers: number of candidates with a NaN answer, per question.
      clamped_proposals: number of proposals outside the action limits or not finite.
    """

    value: Float[Array, " S"]
    values: Float[Array, "S N"]
    candidates: Float[Array, "S N H A"]
    best: Float[Array, "I S"]
    nan_candidates: Int[Array, " S"]
    nan_answers: Int[Array, "S Q"]
    clamped_proposals: Int[Array, " S"]


def blank_state(scenes: int, config: PlannerConfig) -> PlannerState:
    """State before the first replan."""
    chunk = (config.horizon, config.action_size)
    return PlannerState(
        plan=jnp.zeros((scenes, *chunk)),
        warm=jnp.zeros(scenes, bool),
        kept=jnp.zeros((scenes, config.carry, *chunk)),
        stage=jnp.zeros(scenes, jnp.int32),
    )


def shift(
    plan: Float[Array, "S H A"],
    executed: int,
    config: PlannerConfig,
    kept: Float[Array, "S E H A"] | None = None,
    stage: Int[Array, " S"] | None = None,
) -> PlannerState:
    """Warm start of the next replan: the remaining actions, the last one repeated."""
    # E.g. H = 4, 2 executed: 2, 3, 3, 3.
    steps = jnp.minimum(jnp.arange(config.horizon) + executed, config.horizon - 1)
    blank = blank_state(plan.shape[0], config)
    return PlannerState(
        plan=plan[:, steps],
        warm=jnp.full(plan.shape[:1], config.warm_start),
        kept=blank.kept if kept is None else kept[:, :, steps],
        stage=blank.stage if stage is None else stage,
    )
