"""Receding horizon: look, perhaps ask about the present, plan, act, look again.

A goal may depend on what is true now: a stage that is over, or the side from which a
block must be pushed. Such a goal names questions about the present; they are asked at
horizon 0 through the same world model before every replan, and `goal.given(answers)`
is what the planner then aims at. A goal without such questions is its own aim.

Axes: S scenes, H actions of a chunk, A action width, Q questions.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from swm_jax.models import Observation, QuestionBatch
from swm_jax.planning.planner import Planner
from swm_jax.planning.protocol import WorldModel
from swm_jax.planning.question_batch import Tokenizes, goal_batch, question_batch
from swm_jax.planning.search import PlanInfo, PlannerState


@dataclasses.dataclass(frozen=True)
class Controller:
    """Plans for several scenes at once; holds no state, so resuming is trivial.

    Attributes:
      planner: see `get_planner`.
      world_model: anything that follows the protocol.
      tokenizer: needed by world models that read; None suits the simulator.
      question_length: T, the model's `max_question_tokens`.
      question_count: Q, fixed so that goals of other lengths do not recompile.
    """

    planner: Planner
    world_model: WorldModel
    tokenizer: Tokenizes | None = None
    question_length: int | None = None
    question_count: int | None = None

    def replan(
        self,
        observation: Observation,
        goals: Sequence[Any],
        state: PlannerState,
        key: Key[Array, ""],
    ) -> tuple[Float[Array, "S H A"], PlannerState, PlanInfo]:
        """One replan; carry out `planner.config.execute` actions before the next."""
        aims = self.aims(observation, goals)
        questions, arrays = goal_batch(
            aims, self.tokenizer, self.question_length, self.question_count
        )
        return self.planner.plan(
            self.world_model, observation, questions, arrays, state, key
        )

    def aims(self, observation: Observation, goals: Sequence[Any]) -> list[Any]:
        """The goals, given what is true now (one question to the world model)."""
        asked = [tuple(getattr(goal, "present", ())) for goal in goals]
        filler = next((each for each in asked if each), None)
        if filler is None:
            return list(goals)
        batch = question_batch(
            [each or filler for each in asked], self.tokenizer, self.question_length
        )
        config = self.planner.config
        idle = np.zeros((len(goals), 1, config.horizon, config.action_size), np.float32)
        yes = np.asarray(_ask_now(self.world_model, observation, batch, idle))
        return [
            goal.given(yes[s, : len(asked[s])]) if asked[s] else goal
            for s, goal in enumerate(goals)
        ]


@jax.jit
def _ask_now(
    world_model: WorldModel,
    observation: Observation,
    questions: QuestionBatch,
    idle: Float[Array, "S 1 H A"],
) -> Float[Array, "S Q"]:
    """Margin of yes over no, in logits, about the present."""
    context = world_model.encode(observation, questions)
    logits = world_model.answer_logits(context, idle, (0,))[:, 0, 0]
    return jnp.subtract(logits[..., 1], logits[..., 0])
