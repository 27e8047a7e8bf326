"""OGBench's own cube env: physics, robot and pictures of the package `ogbench`.

Scenes, questions, tasks, goals and policies are the cube arm's. Other looks and an
engine for accelerators are what it lacks; `host` and `device` draw our cube arm.
"""

import dataclasses

from swm_jax.envs import EnvMaker
from swm_jax.worlds.cube import WORLD as CUBE
from swm_jax.worlds.ogbench.env import OGBenchCube, check_config, default_config

WORLD = dataclasses.replace(
    CUBE,
    name="ogbench",
    env=EnvMaker(
        engines={"ogbench": "swm_jax.worlds.ogbench.env:OGBenchCube"},
        settings=default_config,
        action_size=OGBenchCube.action_size,
        action_limit=OGBenchCube.action_limit,
        check=check_config,
    ),
)
