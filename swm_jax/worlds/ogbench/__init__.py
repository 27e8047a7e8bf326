"""OGBench world: physics, robot and renderer of the package `ogbench`.

Scenes, questions, tasks, goals and policies are those of our cube world. It has one
look and no engine for accelerators; `render.host` and `render.device` draw our cube
world's arm.
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
