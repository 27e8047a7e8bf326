"""What a replan leaves behind: for the next replan, and for whoever watches.

Axes: S scenes, N candidates, H actions of a chunk, A action width, Q questions,
I iterations, E candidates carried over.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int

from swm_jax.arrays import Array
from swm_jax.planning.config import PlannerConfig


class PlannerState(struct.PyTreeNode):
    """What one replan leaves to the next.

    Attributes:
      plan: float32[S, H, A], the last plan, shifted by what has been executed.
      warm: bool[S], False before a scene's first replan.
      kept: float32[S, E, H, A], the best other candidates, shifted; E is `carry`.
      stage: int32[S], where in a staged goal the scene is; 0 for other goals.
    """

    plan: Float[Array, "S H A"]
    warm: Bool[Array, " S"]
    kept: Float[Array, "S E H A"]
    stage: Int[Array, " S"]


class PlanInfo(struct.PyTreeNode):
    """What a replan saw.

    Attributes:
      value: value of the returned chunk, -inf if every candidate was ignored.
      values: values of the last population, -inf where an answer was NaN.
      candidates: the last population.
      best: best value of each population; of each step, for a gradient planner.
      nan_candidates: candidates ignored because an answer was NaN, all iterations.
      nan_answers: how many candidates each question was the reason for.
      clamped_proposals: proposals of a base policy that left the action limits or
        were not finite.
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
    """The warm start of the next replan: what is left, then its last action on."""
    steps = jnp.minimum(jnp.arange(config.horizon) + executed, config.horizon - 1)
    blank = blank_state(plan.shape[0], config)
    return PlannerState(
        plan=plan[:, steps],
        warm=jnp.full(plan.shape[:1], config.warm_start),
        kept=blank.kept if kept is None else kept[:, :, steps],
        stage=blank.stage if stage is None else stage,
    )
