"""Cube world: a gripper and one to four cubes, after OGBench's visual-cube tasks."""

from swm_jax.envs.env import PLAIN, EnvMaker
from swm_jax.worlds.cube import (
    env,
    goals,
    policies,
    questions,
    scene,
    tasks,
)
from swm_jax.worlds.cube.render import device, host, looks
from swm_jax.worlds.world import (
    PlannerSettings,
    Policies,
    Renderers,
    Tasks,
    World,
)

WORLD = World(
    name="cube",
    env=EnvMaker(
        engines=PLAIN,
        half=env.CubeEnv,
        settings=env.default_config,
        action_size=env.CubeEnv.action_size,
        action_limit=env.CubeEnv.action_limit,
        check=env.check_config,
    ),
    scene=scene.FORMAT,
    language=questions.LANGUAGE,
    tasks=Tasks(tasks.TASK_NAMES, tasks.task_in, tasks.task_success),
    goals=goals.GOALS,
    looks=looks.CUBE_LOOKS,
    render=Renderers(device.render, host.render, (224, 224), device.positions),
    policies=Policies(
        names=policies.POLICIES,
        first_memory=policies.first_memory,
        act=policies.act,
        starts=policies.starts,
        generation=policies.generation_config,
        check=lambda config: None,
        settings=("cubes", "control_period"),
        expert=policies.expert,
        others_act=True,  # stored episodes of OGBench have its own policies
    ),
    planner=PlannerSettings(
        every=dict(action_size=5, action_limit=1.0, init_std=0.6, min_std=0.1),
        by_name={
            "gradient_published": dict(
                iterations=20, execute=4, learning_rate=0.2, gradient_clip=10.0
            )
        },
    ),
)
