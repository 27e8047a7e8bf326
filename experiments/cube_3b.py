"""Cubes and a gripper with PaliGemma 3B: the paper's settings.

cube_3b.py              the `branched` layout, 16 queries per image
cube_3b.py:full         the published layout, one question per sequence
cube_3b.py:lora         adapters on both towers, for a single GPU
cube_3b.py:debug        a few steps of a tiny model with the same rules, for tests

Settings are those of `board_3b`, whose docstring has their source, except for the
world: five-dimensional actions in [-1, 1], horizons up to 20 steps, frames of
224 x 224.
"""

import ml_collections

from experiments import board_3b
from swm_jax.choices import known

ARGS = board_3b.ARGS


def get_config(arg: str = "branched") -> ml_collections.ConfigDict:
    """Config of a variant; raises a ValueError for unknown names."""
    arg = known("variant of cube_3b.py", arg or ARGS[0], ARGS)
    config = board_3b.settings(arg)
    config.name = "cube_3b"
    config.world = "cube"
    config.model.overrides.update({"max_horizon": 20, "action_size": 5})
    config.data.dir = "data/cube"
    config.data.frame = (224, 224)
    if arg.endswith("debug"):
        board_3b.shrink(config)
    return config
