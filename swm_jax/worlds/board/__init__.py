"""The board: a peg pushes eight blocks about a table, after Language-Table."""

from swm_jax.envs import EnvMaker
from swm_jax.worlds.board import (
    env,
    geometry,
    goals,
    policies,
    questions,
    scene,
    tasks,
)
from swm_jax.worlds.board.render import device, host, looks
from swm_jax.worlds.world import (
    PlannerSettings,
    Policies,
    Renderers,
    Tasks,
    World,
)

WORLD = World(
    name="board",
    env=EnvMaker(
        engines={
            "mujoco": "swm_jax.worlds.board.engine:MujocoBoard",
            "mjx": "swm_jax.worlds.board.engine:MjxBoard",
        },
        settings=env.default_config,
        action_size=env.BoardEnv.action_size,
        action_limit=geometry.ACTION_LIMIT,
        check=env.check_config,
    ),
    scene=scene.FORMAT,
    language=questions.LANGUAGE,
    tasks=Tasks(tasks.TASK_NAMES, tasks.task_in, tasks.task_success),
    goals=goals.GOALS,
    looks=looks.LOOKS,
    render=Renderers(device.render, host.render, (180, 320)),
    policies=Policies(
        names=policies.POLICIES,
        first_memory=policies.first_memory,
        act=policies.act,
        starts=policies.starts,
        generation=policies.generation_config,
        check=policies.check_generation,
        settings=("block_set",),
        expert=policies.expert,
    ),
    planner=PlannerSettings(),
)
