"""Receding horizon: look, perhaps ask about the present, plan, act, look again.

A goal may depend on what is true now: a stage that is over, or the side from which a
block must be pushed. Such a goal names questions about the present; they are asked at
horizon 0 through the same world model before every replan, and `goal.given(answers)`
is what the planner then aims at. A goal with stages also hears which of them it was
in; that is part of the planner's state. A goal without such questions is its own aim.

Axes: S scenes, H actions of a chunk, A action width, Q questions.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from swm_jax.models import Observation, QuestionBatch
from swm_jax.models.ask import read_answers
from swm_jax.planning.planner import Planner
from swm_jax.planning.proposals import Proposals
from swm_jax.planning.protocol import WorldModel
from swm_jax.planning.question_batch import Tokenizes, goal_batch, question_batch
from swm_jax.planning.state import PlanInfo, PlannerState


@dataclasses.dataclass(frozen=True)
class Controller:
    """Plans for several scenes at once; holds no state, so resuming is trivial.

    Attributes:
      planner: see `get_planner`.
      world_model: anything that follows the protocol.
      tokenizer: needed by world models that read; None suits the simulator.
      question_length: T, the model's `max_question_tokens`.
      question_count: Q, fixed so that goals of other lengths do not recompile.
      policy: where the planner starts from, see `swm_jax.planning.proposals`.
      mesh: devices to plan on, see `Planner.plan`.
    """

    planner: Planner
    world_model: WorldModel
    tokenizer: Tokenizes | None = None
    question_length: int | None = None
    question_count: int | None = None
    policy: Proposals | None = None
    mesh: Mesh | None = None

    def replan(
        self,
        observation: Observation,
        goals: Sequence[Any],
        state: PlannerState,
        key: Key[Array, "*S"],
    ) -> tuple[Float[Array, "S H A"], PlannerState, PlanInfo]:
        """One replan; carry out `planner.config.execute` actions before the next.

        Warns, once in a process, of questions answered NaN and of a policy that
        leaves the action limits.
        """
        aims, stages = self.aims_and_stages(observation, goals, np.asarray(state.stage))
        questions, arrays = goal_batch(
            aims, self.tokenizer, self.question_length, self.question_count
        )
        chunk, after, info = self.planner.plan(
            self.world_model,
            observation,
            questions,
            arrays,
            state.replace(stage=stages),
            key,
            self.policy,
            self.mesh,
        )
        warn_of_trouble(info, aims, self.planner.config.action_limit)
        return chunk, after, info

    def aims(self, observation: Observation, goals: Sequence[Any]) -> list[Any]:
        """The goals, given what is true now, of scenes that are in their first stage.

        One question to the world model, if any goal depends on it.
        """
        return self.aims_and_stages(observation, goals, [0] * len(goals))[0]

    def aims_and_stages(
        self, observation: Observation, goals: Sequence[Any], stages: Sequence[int]
    ) -> tuple[list[Any], np.ndarray]:
        """The same for scenes in any stage, and the stages int32[S] they are in now."""
        aims, stages = list(goals), np.array(stages, np.int32)
        asked = [tuple(getattr(goal, "present", ())) for goal in goals]
        filler = next((each for each in asked if each), None)
        if filler is None:
            return aims, np.zeros_like(stages)
        batch = question_batch(
            [each or filler for each in asked], self.tokenizer, self.question_length
        )
        config = self.planner.config
        idle = np.zeros((len(goals), 1, config.horizon, config.action_size), np.float32)
        yes = np.asarray(ask_now(self.world_model, observation, batch, idle))
        for s, goal in enumerate(goals):
            margins = yes[s, : len(asked[s])]
            if hasattr(goal, "next_stage"):
                stages[s] = goal.next_stage(margins, int(stages[s]))
                aims[s] = goal.aim(margins, int(stages[s]))
            else:
                stages[s] = 0
                aims[s] = goal.given(margins) if asked[s] else goal
        return aims, stages


def warn_of_trouble(info: PlanInfo, aims: Sequence[Any], action_limit: float) -> None:
    """Names what was wrong with answers or proposals.

    The texts hold no counts, so that Python shows each of them once; the counts are
    in `info`.
    """
    warn_of_nan(info.nan_answers, aims)
    if np.any(np.asarray(info.clamped_proposals)):
        warnings.warn(
            f"proposals of the base policy leave the action limits of +-{action_limit} "
            "and are clamped to them",
            stacklevel=3,
        )


def warn_of_nan(nan_answers: Int[Array, "S Q"], aims: Sequence[Any]) -> None:
    """Names the questions that had unusable answers.

    Args:
      nan_answers: how often, as in `PlanInfo`.
      aims: S goals.
    """
    for s, q in np.argwhere(np.asarray(nan_answers)):
        warnings.warn(
            f"NaN or infinity in the answers to {aims[s].questions[q].text!r}; "
            "candidates with such answers are ignored",
            stacklevel=3,
        )


@jax.jit
def ask_now(
    world_model: WorldModel,
    observation: Observation,
    questions: QuestionBatch,
    idle: Float[Array, "S 1 H A"],
) -> Float[Array, "S Q"]:
    """Margin of yes over no, in logits, about the present."""
    logits = read_answers(world_model, observation, questions, idle, (0,))[:, 0, 0]
    return jnp.subtract(logits[..., 1], logits[..., 0])
