"""How large goals are: arrays with room for the largest are compiled once."""

import functools
from collections.abc import Iterable

from swm_jax.envs.board_tasks import make_task
from swm_jax.questions import goal_for_task


@functools.cache
def goal_size(task: str, preset: str) -> int:
    """How many questions the goals of a task have, whichever side they are about."""
    goal = goal_for_task(task, make_task(task).names, preset)
    return max(len(g.questions) for g in getattr(goal, "options", (goal,)))


def room(tasks: Iterable[str], preset: str) -> int:
    """Q that fits the goals of all these tasks."""
    return max(goal_size(task, preset) for task in tasks)
