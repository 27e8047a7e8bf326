"""Board world: a peg pushes eight blocks on a table, after Language-Table."""

from swm_jax.envs.env import PUSHING, EnvMaker
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
    check_near_share,
)

WORLD = World(
    name="board",
    env=EnvMaker(
        engines=PUSHING,
        half=env.BoardEnv,
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
    render=Renderers(device.render, host.render, (180, 320), device.positions),
    policies=Policies(
        names=policies.POLICIES,
        first_memory=policies.first_memory,
        act=policies.act,
        starts=policies.starts,
        generation=policies.generation_config,
        check=check_near_share,
        settings=("block_set",),
        expert=policies.expert,
    ),
    planner=PlannerSettings(),
)
