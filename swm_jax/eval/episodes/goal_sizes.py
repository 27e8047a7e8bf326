"""How large goals are: arrays with room for the largest are compiled once."""

import functools
from collections.abc import Iterable

from swm_jax.questions import goal_for_task
from swm_jax.worlds.board import tasks as board_tasks
from swm_jax.worlds.cube import tasks as cube_tasks


@functools.cache
def goal_size(task: str, preset: str, domain: str = "board") -> int:
    """How many questions the goals of a task have, whichever side they are about."""
    tasks = cube_tasks if domain == "cube" else board_tasks
    goal = goal_for_task(task, tasks.make_task(task).names, preset, domain=domain)
    return max(len(g.questions) for g in getattr(goal, "options", (goal,)))


def room(tasks: Iterable[str], preset: str, domain: str = "board") -> int:
    """Q that fits the goals of all these tasks."""
    return max(goal_size(task, preset, domain) for task in tasks)
