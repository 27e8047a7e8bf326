"""Goals of a batch of scenes as arrays, and selection of the current option.

Used by host and device episode loops: goals are converted once, and the option to plan
for is computed from answers about the present in traceable arithmetic. A `Goal` is one
option, a `ConditionalGoal` several, a `StagedGoal` those of its stages.

Axes: S scenes or episodes, P questions about the present, O options, G stages, Q
questions of an option.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int

from swm_jax.arrays import Array, Indices
from swm_jax.models import QuestionBatch
from swm_jax.models.tokenizer import Tokenizes
from swm_jax.planning.goals.question_batch import goal_batch, question_batch
from swm_jax.planning.goals.value import GoalArrays
from swm_jax.questions.conditional_goals import (
    AnyGoal,
    ConditionalGoal,
    options_of,
    present_of,
    stages_of,
)
from swm_jax.questions.goal import Goal


class GoalTable(struct.PyTreeNode):
    """Options, stages and conditions of S goals.

    Attributes:
      questions: of every option, [S, O, Q, ...].
      goal: desired answers and weights of every option, [S, O, Q].
      present: questions about the present [S, P, ...]; None without any.
      enter, leave: float32[S, G], thresholds on the logit of yes to present question g:
        stage g ends above `enter` and begins again below `leave`.
      latch: bool[S], True: stages never begin again.
      last: int32[S], index of the last stage.
      first: int32[S, G], index of the first option of each stage.
      asked: int32[S, G], index of the first present question that selects among the
        options of a stage; -1 for stages of one option.
      chooser: int32[S, G], index into `choosers`; 0 where the stage has one option.
      choosers: the `ConditionalGoal.scores` of the goals, each with its number of
        questions.
    """

    questions: QuestionBatch
    goal: GoalArrays
    present: QuestionBatch | None
    enter: Float[Array, "S G"]
    leave: Float[Array, "S G"]
    latch: Bool[Array, " S"]
    last: Int[Array, " S"]
    first: Int[Array, "S G"]
    asked: Int[Array, "S G"]
    chooser: Int[Array, "S G"]
    choosers: tuple[tuple[Callable, int], ...] = struct.field(pytree_node=False)


def goal_table(
    goals: Sequence[AnyGoal],
    tokenizer: Tokenizes | None = None,
    length: int | None = None,
    *,
    options: int = 1,
    count: int | None = None,
) -> GoalTable:
    """Builds the table of one goal per scene, on the host.

    Args:
      goals: S goals.
      tokenizer, length, count: as for `goal_batch`.
      options: minimum of O, so that tables of other goals have the same shape.

    Raises:
      ValueError: a goal of another kind, or as `goal_batch`.
    """
    for goal in goals:
        if not isinstance(goal, AnyGoal):
            raise ValueError(
                "goals are Goal, ConditionalGoal or StagedGoal, got a "
                f"{type(goal).__name__}"
            )
    every = [options_of(goal) for goal in goals]
    options = max(options, *map(len, every))
    pad = lambda items: [*items, *[items[-1]] * (options - len(items))]
    flat = list(itertools.chain(*map(pad, every)))
    batch = goal_batch(flat, tokenizer, length, count)
    split = lambda x: np.asarray(x).reshape(len(goals), options, *np.shape(x)[1:])
    questions, arrays = jax.tree.map(split, batch)
    asked = [present_of(goal) for goal in goals]
    # Scenes without present questions get another scene's; the answers are not used.
    filler = next(filter(None, asked), None)
    present = None
    if filler:
        present = question_batch([each or filler for each in asked], tokenizer, length)
    choosers: dict[tuple[Callable, int], int] = {}
    rows = [_row(goal, choosers) for goal in goals]
    widest = max(len(row["first"]) for row in rows)

    def stack(name, blank, dtype):
        out = np.full((len(rows), widest), blank, dtype)
        for s, row in enumerate(rows):
            out[s, : len(row[name])] = row[name]
        return out

    return GoalTable(
        questions=questions,
        goal=arrays,
        present=present,
        enter=stack("enter", np.inf, np.float32),
        leave=stack("leave", -np.inf, np.float32),
        latch=np.array([getattr(goal, "rule", "") == "latch" for goal in goals]),
        last=np.array([len(row["first"]) - 1 for row in rows], np.int32),
        first=stack("first", 0, np.int32),
        asked=stack("asked", -1, np.int32),
        chooser=stack("chooser", 0, np.int32),
        choosers=tuple(choosers),
    )


@jax.jit
def choose(
    table: GoalTable, margins: Float[Array, "S P"], stage: Int[Array, " S"]
) -> tuple[Int[Array, " S"], Int[Array, " S"]]:
    """Selects stage and option of each scene from answers about the present.

    NaN answers leave the stage unchanged, and count as 0 (undecided) among options.

    Args:
      table: from `goal_table`.
      margins: logit of yes minus logit of no of every present question.
      stage: stage at the previous replan, initially 0.

    Returns:
      Option, stage.
    """
    stages = table.first.shape[1]
    ends = margins[:, : stages - 1]  # questions that end stages come first
    ends = jnp.pad(ends, ((0, 0), (0, stages - ends.shape[1])), constant_values=jnp.nan)
    each = jnp.arange(stages)
    stage = jnp.clip(stage, 0, table.last)
    # The first earlier stage that fell back, else the first one from the current stage
    # on that has not ended. Comparisons with NaN are False in both.
    undone = (each < stage[:, None]) & (ends < table.leave) & ~table.latch[:, None]
    goes_on = (ends > table.enter) & (each < table.last[:, None])
    stays = (each >= stage[:, None]) & ~goes_on
    stage = jnp.where(undone.any(1), undone.argmax(1), stays.argmax(1))
    row = lambda x: jnp.take_along_axis(jnp.asarray(x), stage[:, None], 1)[:, 0]
    option, asked, chooser = row(table.first), row(table.asked), row(table.chooser)
    for number, (scores, count) in enumerate(table.choosers):
        index = jnp.maximum(asked, 0)[:, None] + jnp.arange(count)
        own = jnp.take_along_axis(jnp.nan_to_num(margins), index, 1, mode="clip")
        best = jnp.argmax(scores(own), -1)
        option = option + jnp.where((asked >= 0) & (chooser == number), best, 0)
    return option.astype(jnp.int32), stage.astype(jnp.int32)


def aim(table: GoalTable, option: Int[Array, " S"]) -> tuple[QuestionBatch, GoalArrays]:
    """Questions and goal of one option per scene."""
    pick = lambda x: jax.vmap(lambda rows, i: rows[i])(jnp.asarray(x), option)
    return jax.tree.map(pick, (table.questions, table.goal))


@dataclasses.dataclass(frozen=True)
class CompiledGoals:
    """Goals of S scenes and their arrays.

    Attributes:
      goals: S goals.
      table: their arrays, on the host.
    """

    goals: tuple[AnyGoal, ...]
    table: GoalTable

    def rows(self, index: Indices) -> "CompiledGoals":
        """Selects scenes; all axes but S keep their size."""
        rows = np.asarray(index)
        table = jax.tree.map(lambda x: np.asarray(x)[rows], self.table)
        return CompiledGoals(tuple(self.goals[i] for i in rows), table)

    @property
    def ask(self) -> bool:
        """Whether any of the goals depends on the present."""
        return any(present_of(goal) for goal in self.goals)

    def aims(self, option: Indices) -> list[Goal]:
        """The option of every scene."""
        return [options_of(goal)[int(i)] for goal, i in zip(self.goals, option)]


def compile_goals(goals: Sequence[AnyGoal], *words: Any, **sizes: Any) -> CompiledGoals:
    """Goals with their table; arguments as for `goal_table`."""
    return CompiledGoals(tuple(goals), goal_table(goals, *words, **sizes))


def _row(goal: AnyGoal, choosers: dict[tuple[Callable, int], int]) -> dict[str, list]:
    """Table row of one goal; registers its score functions in `choosers`."""
    stages = stages_of(goal)
    logit = lambda p: math.log(p / (1 - p))
    row = {
        "enter": [logit(stage.threshold) for stage in stages[:-1]],
        "leave": [logit(stage.fall_back) for stage in stages[:-1]],
        "first": [],
        "asked": [],
        "chooser": [],
    }
    # Present questions: one per stage end first, then those that select options.
    option, question = 0, len(stages) - 1
    for stage in stages:
        row["first"].append(option)
        option += len(options_of(stage.goal))
        if isinstance(stage.goal, ConditionalGoal):
            count = len(stage.goal.present)
            key = stage.goal.scores, count
            row["asked"].append(question)
            row["chooser"].append(choosers.setdefault(key, len(choosers)))
            question += count
        else:
            row["asked"].append(-1)
            row["chooser"].append(0)
    return row
