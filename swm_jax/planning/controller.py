"""Receding-horizon control: observe, select the current goal, plan, repeat.

A goal may depend on the present state: a finished stage, or the side from which a block
must be pushed. Such a goal has questions about the present. Before every replan the
world model answers them at horizon 0, and the answers select the option and stage to
plan for (`goal_table`). The stage is part of the planner's state.

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
from jaxtyping import Float, Int, Key

from swm_jax.arrays import Array
from swm_jax.models import Observation, QuestionBatch
from swm_jax.models.ask import read_answers
from swm_jax.models.tokenizer import Tokenizes
from swm_jax.planning.goals.table import CompiledGoals, aim, choose, compile_goals
from swm_jax.planning.planner import Planner
from swm_jax.planning.proposals import Proposals
from swm_jax.planning.protocol import WorldModel
from swm_jax.planning.state import PlanInfo, PlannerState
from swm_jax.questions.conditional_goals import AnyGoal
from swm_jax.questions.goal import Goal


@dataclasses.dataclass(frozen=True)
class Controller:
    """Stateless controller for a batch of scenes; the caller keeps `PlannerState`.

    Attributes:
      planner: see `get_planner`.
      world_model: any implementation of the protocol.
      tokenizer: for language models; None for the simulator.
      question_length: T, the model's `max_question_tokens`.
      question_count: Q, fixed so that goals of other lengths do not recompile.
      policy: base policy that proposes chunks, see `swm_jax.planning.proposals`.
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
        goals: Sequence[AnyGoal] | CompiledGoals,
        state: PlannerState,
        key: Key[jax.Array, "*S"],
    ) -> tuple[Float[Array, "S H A"], PlannerState, PlanInfo]:
        """Plans one chunk per scene; execute `planner.config.execute` of its actions.

        Warns once per process about NaN answers and about proposals outside the action
        limits.

        Args:
          goals: one per scene; pass the result of `compile` for repeated replans.
        """
        compiled = self.compile(goals)
        option, stage = self.choose(observation, compiled, np.asarray(state.stage))
        chunk, after, info = self.planner.plan(
            self.world_model,
            observation,
            *aim(compiled.table, option),
            state.replace(stage=stage),
            key,
            self.policy,
            self.mesh,
        )
        aims = compiled.aims(option)
        warn_of_trouble(info, aims, self.planner.config.action_limit)
        return chunk, after, info

    def compile(self, goals: Sequence[AnyGoal] | CompiledGoals) -> CompiledGoals:
        """Converts goals to arrays; compiled goals are returned unchanged."""
        if isinstance(goals, CompiledGoals):
            return goals
        words = self.tokenizer, self.question_length
        return compile_goals(goals, *words, count=self.question_count)

    def aims(self, observation: Observation, goals: Sequence[AnyGoal]) -> list[Goal]:
        """The goal to plan for now, per scene, starting from the first stage."""
        compiled = self.compile(goals)
        first = np.zeros(len(compiled.goals), int)
        option, _ = self.choose(observation, compiled, first)
        return compiled.aims(option)

    def choose(
        self,
        observation: Observation,
        goals: CompiledGoals,
        stages: Int[np.ndarray, " S"],
    ) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"]]:
        """Option to plan for and its stage, per scene.

        Queries the world model once if any goal depends on the present.
        """
        if not goals.ask:
            nowhere = np.zeros(len(goals.goals), np.int32)
            return nowhere, nowhere
        config = self.planner.config
        idle = (len(goals.goals), 1, config.horizon, config.action_size)
        margins = ask_now(
            self.world_model,
            observation,
            goals.table.present,
            np.zeros(idle, np.float32),
        )
        found = choose(goals.table, margins, np.asarray(stages, np.int32))
        return jax.tree.map(np.asarray, found)


def warn_of_trouble(info: PlanInfo, aims: Sequence[Any], action_limit: float) -> None:
    """Warns about NaN answers and clamped proposals.

    Messages contain no counts, because Python shows an identical warning once; counts
    are in `info`.
    """
    warn_of_nan(info.nan_answers, aims)
    if np.any(np.asarray(info.clamped_proposals)):
        warnings.warn(
            f"proposals of the base policy leave the action limits of +-{action_limit} "
            "and are clamped to them",
            stacklevel=3,
        )


def warn_of_nan(nan_answers: Int[Array, "S Q"], aims: Sequence[Any]) -> None:
    """Warns about each question with NaN or infinite answers.

    Args:
      nan_answers: counts, as in `PlanInfo`.
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
    """Logit of yes minus logit of no for questions about the present."""
    logits = read_answers(world_model, observation, questions, idle, (0,))[:, 0, 0]
    return jnp.subtract(logits[..., 1], logits[..., 0])
