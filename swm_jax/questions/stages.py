"""Goals one after the other: first grasp, then stack.

A stage ends when the answer to a question about the present says so. What happens
when a later answer takes it back depends on the rule:

    hysteresis  a stage ends above `threshold` and comes back below `fall_back`, so
                that a dropped object is picked up again and an answer that wavers
                between the two changes nothing
    latch       published: a stage that is over stays over, even if the answer that
                ended it was wrong

Which stage a scene is in is not kept here: whoever plans hands it in and gets the
next one, so that a goal is a constant and episodes can be resumed.

The goal of a stage may itself depend on the present: a `SidedGoal`, whose questions
about the sides stand behind those that end stages.

Axes: P questions about the present: one per stage but the last, then those that the
stages' own goals ask.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from swm_jax.questions.goal import Goal
from swm_jax.questions.question import Question
from swm_jax.questions.sided import SidedGoal

STAGE_RULES = ("hysteresis", "latch")


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A goal, and the question about the present that ends it.

    Attributes:
      goal: what to plan for during this stage.
      done: asked about the present frame; None on a last stage.
      threshold: probability of "yes" to `done` above which the next stage begins.
      fall_back: probability below which this stage begins again.

    Raises:
      ValueError: thresholds that are not 0 < fall_back <= threshold < 1, or a goal
        that has stages itself.
    """

    goal: Goal | SidedGoal
    done: Question | None = None
    threshold: float = 0.9
    fall_back: float = 0.5

    def __post_init__(self):
        if not isinstance(self.goal, (Goal, SidedGoal)):
            raise ValueError(
                "the goal of a stage is a Goal or a SidedGoal, got a "
                f"{type(self.goal).__name__}"
            )
        if not 0 < self.fall_back <= self.threshold < 1:
            raise ValueError(
                "a stage needs 0 < fall_back <= threshold < 1, got fall_back "
                f"{self.fall_back} and threshold {self.threshold}"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class StagedGoal:
    """Goals one after the other.

    Attributes:
      stages: at least one; all but the last need a `done`.
      rule: one of `STAGE_RULES`.
    """

    stages: tuple[Stage, ...]
    rule: str = "hysteresis"

    def __post_init__(self):
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages or any(stage.done is None for stage in self.stages[:-1]):
            raise ValueError("every stage but the last needs a question that ends it")
        if self.rule not in STAGE_RULES:
            raise ValueError(
                f"unknown stage rule {self.rule!r}, expected one of {STAGE_RULES}"
            )

    @property
    def dones(self) -> tuple[Question, ...]:
        """The questions that end stages."""
        return tuple(stage.done for stage in self.stages[:-1])

    @property
    def present(self) -> tuple[Question, ...]:
        """What to ask about now."""
        return sum((_present(stage.goal) for stage in self.stages), self.dones)

    @property
    def options(self) -> tuple[Goal, ...]:
        """Every goal this may turn into."""
        goals = (stage.goal for stage in self.stages)
        return sum((getattr(goal, "options", (goal,)) for goal in goals), ())

    def next_stage(self, margins: Float[np.ndarray, " P"], stage: int = 0) -> int:
        """The stage to plan for now, given the one that was planned for before.

        NaN moves nothing.

        Args:
          margins: logit of yes minus logit of no of every present question.
          stage: index into `stages`, 0 in the beginning.
        """
        stage = int(np.clip(stage, 0, len(self.stages) - 1))
        if self.rule == "hysteresis":
            for earlier in range(stage):
                if margins[earlier] < _logit(self.stages[earlier].fall_back):
                    return earlier
        while stage < len(self.stages) - 1:
            if not margins[stage] > _logit(self.stages[stage].threshold):
                break
            stage += 1
        return stage

    def given(self, margins: Float[np.ndarray, " P"], stage: int = 0) -> Goal:
        """The goal of `next_stage`."""
        return self.aim(margins, self.next_stage(margins, stage))

    def aim(self, margins: Float[np.ndarray, " P"], stage: int) -> Goal:
        """The goal of a stage, as its own questions about the present have it."""
        goal = self.stages[stage].goal
        asked = [len(_present(each.goal)) for each in self.stages]
        start = len(self.dones) + sum(asked[:stage])
        if not asked[stage]:
            return goal
        return goal.given(margins[start : start + asked[stage]])


def _present(goal: Goal | SidedGoal) -> tuple[Question, ...]:
    return tuple(getattr(goal, "present", ()))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
