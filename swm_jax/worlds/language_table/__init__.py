"""Language-Table's own env: physics and pictures of google-research's package.

Scenes, questions, tasks, goals and policies are the board's. The unseen block set,
other looks and an engine for accelerators are what it lacks; `host` and `device` draw
our board.
"""

import dataclasses

from swm_jax.envs import EnvMaker
from swm_jax.worlds.board import WORLD as BOARD
from swm_jax.worlds.language_table.env import (
    LanguageTableEnv,
    check_config,
    default_config,
)

WORLD = dataclasses.replace(
    BOARD,
    name="language_table",
    env=EnvMaker(
        engines={
            "language_table": "swm_jax.worlds.language_table.env:LanguageTableEnv"
        },
        settings=default_config,
        action_size=LanguageTableEnv.action_size,
        action_limit=LanguageTableEnv.action_limit,
        check=check_config,
    ),
)
