"""Goals that depend on answers about the present: options and stages.

A `ConditionalGoal` has several options, one of which is selected by the answers. A
`StagedGoal` is a sequence of goals, such as grasp, then stack; a stage ends by the
answer to a question about the present. Stage rules:

    hysteresis  a stage ends above `threshold` and begins again below `fall_back`, so
                that a dropped object is picked up again and an answer between the two
                changes nothing
    latch       published: a stage that has ended never begins again, even if the answer
                that ended it was wrong

Goals are immutable: the current stage is part of the planner's state, and
`swm_jax.planning.goals.table` computes stage and option.

Axes: P questions about the present, O options.
"""

import dataclasses
from collections.abc import Callable

from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.questions.goal import Goal
from swm_jax.questions.question import Question

STAGE_RULES = ("hysteresis", "latch")


@dataclasses.dataclass(frozen=True, eq=False)
class ConditionalGoal:
    """Several alternative goals; the one with the highest score is planned for.

    Attributes:
      present: P questions about the present.
      options: O goals.
      scores: (margins [..., P]) -> [..., O]; a margin is the logit of yes minus the
        logit of no of a present question. A module-level function for numpy and JAX
        arrays: goals with the same function share a compilation.
    """

    present: tuple[Question, ...]
    options: tuple[Goal, ...]
    scores: Callable[[Float[Array, "... P"]], Float[Array, "... O"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A goal, and the question about the present that ends it.

    Attributes:
      goal: goal during this stage.
      done: question about the present; None for a last stage.
      threshold: probability of "yes" to `done` above which the next stage begins.
      fall_back: probability below which this stage begins again.

    Raises:
      ValueError: thresholds that are not 0 < fall_back <= threshold < 1, or a goal
        that has stages itself.
    """

    goal: Goal | ConditionalGoal
    done: Question | None = None
    threshold: float = 0.9
    fall_back: float = 0.5

    def __post_init__(self):
        if not isinstance(self.goal, (Goal, ConditionalGoal)):
            raise ValueError(
                "the goal of a stage is a Goal or a ConditionalGoal, got a "
                f"{type(self.goal).__name__}"
            )
        if not 0 < self.fall_back <= self.threshold < 1:
            raise ValueError(
                "a stage needs 0 < fall_back <= threshold < 1, got fall_back "
                f"{self.fall_back} and threshold {self.threshold}"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class StagedGoal:
    """A sequence of goals.

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


AnyGoal = Goal | ConditionalGoal | StagedGoal


def stages_of(goal: AnyGoal) -> tuple[Stage, ...]:
    """The stages of a goal; other goals are a single stage that never ends."""
    return goal.stages if isinstance(goal, StagedGoal) else (Stage(goal),)


def options_of(goal: AnyGoal) -> tuple[Goal, ...]:
    """All options of a goal, stage by stage."""
    if isinstance(goal, Goal):
        return (goal,)
    if isinstance(goal, ConditionalGoal):
        return goal.options
    return sum((options_of(stage.goal) for stage in goal.stages), ())


def present_of(goal: AnyGoal) -> tuple[Question, ...]:
    """Present questions of a goal: ends of stages first, then those of its options."""
    stages = stages_of(goal)
    ends = tuple(stage.done for stage in stages[:-1] if stage.done is not None)
    return sum((getattr(stage.goal, "present", ()) for stage in stages), ends)


def question_count(goal: AnyGoal) -> int:
    """Number of questions of a goal's largest option."""
    return max(len(option.questions) for option in options_of(goal))
