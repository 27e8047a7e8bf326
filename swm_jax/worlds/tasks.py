"""The benchmark's tasks of any env."""

from swm_jax.worlds.board import tasks as board_tasks
from swm_jax.worlds.cube import tasks as cube_tasks

TASK_NAMES = {"board": board_tasks.TASK_NAMES, "cube": cube_tasks.TASK_NAMES}
AnyTask = board_tasks.Task | cube_tasks.CubeTask


def task_for(env, name: str, seed: int) -> AnyTask:
    """The task of that name and seed about what is in an env.

    Raises:
      ValueError: an unknown task; the message suggests one.
    """
    if env.domain == "cube":
        return cube_tasks.make_task(name, seed=seed, cubes=env.config.cubes)
    return board_tasks.make_task(name, seed=seed, block_set=env.config.block_set)
