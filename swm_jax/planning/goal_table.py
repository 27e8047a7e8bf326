"""Goals of many episodes as arrays, and which part of them counts now, in one program.

The host's way (`Controller.aims_and_stages`) asks goals one after the other, which may
be any Python. A loop that stays on the device needs the same choice as arithmetic: a
`Goal` is one option, a `SidedGoal` eight, a `StagedGoal` those of its stages.

Axes: S episodes, P questions about the present, O options, G stages, Q questions of an
option, C answers.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from swm_jax.models import QuestionBatch
from swm_jax.planning.question_batch import Tokenizes, goal_batch, question_batch
from swm_jax.planning.value import GoalArrays
from swm_jax.questions.goal import Goal
from swm_jax.questions.sided import FAR_EVIDENCE, SidedGoal
from swm_jax.questions.stages import StagedGoal
from swm_jax.worlds.board.words import (
    DIRECTION_VECTORS,
    DIRECTIONS,
    REGION_POINTS,
    REGIONS,
)


@struct.dataclass
class GoalTable:
    """Everything that S episodes may come to aim at.

    Attributes:
      questions: of every option, [S, O, Q, ...].
      goal: what each option wants to hear, [S, O, Q].
      present: questions about the present [S, P, ...]; None if no goal asks any.
      enter, leave: float32[S, G], logits of yes to question g about the present above
        which stage g ends, and below which it begins again.
      latch: bool[S], stages never begin again.
      last: int32[S], index of the last stage.
      first: int32[S, G], first option of each stage.
      sided: int32[S, G], first of the questions about the sides of a stage; -1 where
        the stage has one option.
    """

    questions: QuestionBatch
    goal: GoalArrays
    present: QuestionBatch | None
    enter: Float[Array, "S G"]
    leave: Float[Array, "S G"]
    latch: Bool[Array, " S"]
    last: Int[Array, " S"]
    first: Int[Array, "S G"]
    sided: Int[Array, "S G"]


def goal_table(
    goals: Sequence[Goal | SidedGoal | StagedGoal],
    tokenizer: Tokenizes | None = None,
    length: int | None = None,
    *,
    options: int = 1,
    count: int | None = None,
) -> GoalTable:
    """Arrays of one goal per episode.

    Args:
      tokenizer, length, count: as for `goal_batch`.
      options: O at least, so that tables of other goals have the same shape.

    Raises:
      ValueError: a goal of another kind, or as `goal_batch`.
    """
    rows = [_row(goal) for goal in goals]
    options = max(options, *(len(row["options"]) for row in rows))
    pad = lambda items: [*items, *[items[-1]] * (options - len(items))]
    flat = list(itertools.chain(*[pad(row["options"]) for row in rows]))
    batch = goal_batch(flat, tokenizer, length, count)
    split = lambda x: np.asarray(x).reshape(len(goals), options, *np.shape(x)[1:])
    questions, arrays = jax.tree.map(split, batch)
    asked = [row["present"] for row in rows]
    filler = next(filter(None, asked), None)
    present = None
    if filler:
        present = question_batch([each or filler for each in asked], tokenizer, length)
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
        latch=np.array([row["latch"] for row in rows]),
        last=np.array([len(row["first"]) - 1 for row in rows], np.int32),
        first=stack("first", 0, np.int32),
        sided=stack("sided", -1, np.int32),
    )


def choose(
    table: GoalTable, margins: Float[Array, "S P"], stage: Int[Array, " S"]
) -> tuple[Int[Array, " S"], Int[Array, " S"]]:
    """The option to plan for, and the stage it belongs to.

    Args:
      margins: logit of yes minus logit of no of every present question.
      stage: of the replan before, 0 in the beginning.
    """
    stages = table.first.shape[1]
    ends = margins[:, : stages - 1]  # questions that end stages come first
    ends = jnp.pad(ends, ((0, 0), (0, stages - ends.shape[1])), constant_values=jnp.nan)
    each = jnp.arange(stages)
    stage = jnp.clip(stage, 0, table.last)
    undone = (each < stage[:, None]) & (ends < table.leave) & ~table.latch[:, None]
    goes_on = (ends > table.enter) & (each < table.last[:, None])
    stays = (each >= stage[:, None]) & ~goes_on
    stage = jnp.where(undone.any(1), undone.argmax(1), stays.argmax(1))
    row = lambda x: jnp.take_along_axis(x, stage[:, None], 1)[:, 0]
    first, sided = row(table.first), row(table.sided)
    if (side := _side(margins, sided)) is not None:
        first = first + jnp.where(sided < 0, 0, side)
    return first.astype(jnp.int32), stage.astype(jnp.int32)


def aim(table: GoalTable, option: Int[Array, " S"]) -> tuple[QuestionBatch, GoalArrays]:
    """Questions and goal of one option per episode."""
    pick = lambda x: jax.vmap(lambda rows, i: rows[i])(jnp.asarray(x), option)
    return jax.tree.map(pick, (table.questions, table.goal))


def _side(margins, start: Int[Array, " S"]) -> Array | None:
    """`SidedGoal.given` for questions that begin at `start`."""
    near, here = len(DIRECTIONS), len(REGIONS)
    if margins.shape[1] < near + 2 * here:
        return None
    index = jnp.maximum(start, 0)[:, None] + jnp.arange(near + 2 * here)
    margins = jnp.nan_to_num(jnp.take_along_axis(margins, index, 1, mode="clip"))
    near, here, there = jnp.split(margins, [near, near + here], 1)
    place = lambda m: jax.nn.softmax(m) @ jnp.asarray(REGION_POINTS, jnp.float32)
    way = place(there) - place(here)
    length = jnp.maximum(jnp.linalg.norm(way, axis=-1, keepdims=True), 1e-6)
    far = way / length @ jnp.asarray(DIRECTION_VECTORS, jnp.float32).T
    return jnp.argmax(near + FAR_EVIDENCE * far, -1)


def _row(goal: Any) -> dict[str, Any]:
    """What one goal puts into the table."""
    if isinstance(goal, StagedGoal):
        stages, latch = goal.stages, goal.rule == "latch"
    elif isinstance(goal, (Goal, SidedGoal)):
        stages, latch = None, False
    else:
        raise ValueError(
            f"goals on the device are Goal, SidedGoal or StagedGoal, got a "
            f"{type(goal).__name__}"
        )
    logit = lambda p: math.log(p / (1 - p))
    goals = [goal] if stages is None else [stage.goal for stage in stages]
    asked = () if stages is None else goal.dones
    row = {"latch": latch, "present": list(asked), "options": []}
    ends = [] if stages is None else stages[:-1]
    row["enter"] = [logit(stage.threshold) for stage in ends]
    row["leave"] = [logit(stage.fall_back) for stage in ends]
    row["first"], row["sided"] = [], []
    for each in goals:
        row["first"].append(len(row["options"]))
        sided = isinstance(each, SidedGoal)
        row["sided"].append(len(row["present"]) if sided else -1)
        row["present"] += each.present if sided else ()
        row["options"] += each.options if sided else (each,)
    return row
