"""What a goal turns into: by the table of planners, and written out a second time.

The second way goes through stages and sides one after the other, in float64.
"""

import numpy as np

from swm_jax.planning.goals.table import choose, compile_goals
from swm_jax.questions import ConditionalGoal, StagedGoal
from swm_jax.questions.wordings import DIRECTIONS
from swm_jax.worlds.board.words import (
    DIRECTION_VECTORS,
    REGION_POINTS,
)


def by_table(goal, margins, stage=0):
    """(Goal, stage) for answers about the present."""
    compiled = compile_goals([goal])
    margins = np.atleast_1d(np.asarray(margins, np.float32))[None]
    option, stage = choose(compiled.table, margins, np.array([stage], np.int32))
    return compiled.aims(option)[0], int(stage[0])


def by_hand(goal, margins, stage=0):
    """The same, without arrays of goals."""
    if isinstance(goal, StagedGoal):
        stage = next_stage(goal, margins, stage)
        before = len(goal.stages) - 1
        before += sum(len(_present(each.goal)) for each in goal.stages[:stage])
        inner = goal.stages[stage].goal
        return by_hand(inner, margins[before : before + len(_present(inner))])[0], stage
    if isinstance(goal, ConditionalGoal):
        return goal.options[side(margins[: len(goal.present)])], 0
    return goal, 0


def next_stage(goal, margins, stage):
    """Back to the first stage that is undone, or on past those that are over."""
    logit = lambda p: np.log(p / (1 - p))
    if goal.rule == "hysteresis":
        for earlier in range(stage):
            if margins[earlier] < logit(goal.stages[earlier].fall_back):
                return earlier
    while stage < len(goal.stages) - 1:
        if not margins[stage] > logit(goal.stages[stage].threshold):
            break
        stage += 1
    return stage


def side(margins):
    """The direction that eight sides and twice nine regions speak for."""
    margins = np.nan_to_num(np.asarray(margins, np.float64))
    near, here, there = np.split(margins, [len(DIRECTIONS), len(margins) - 9])
    place = lambda m: np.exp(m - m.max()) @ REGION_POINTS / np.exp(m - m.max()).sum()
    way = place(there) - place(here)
    far = DIRECTION_VECTORS @ way / max(np.linalg.norm(way), 1e-6)
    return int(np.argmax(near + 2.0 * far))


def _present(goal):
    return getattr(goal, "present", ())
