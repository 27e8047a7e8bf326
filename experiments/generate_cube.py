"""Data set of the cube world, for `python -m data_pipelines.generate`.

generate_cube.py           400 episodes of 101 frames, minutes on a laptop
generate_cube.py:paper     1,001 frames each at 224 px, as in the paper
generate_cube.py:debug     4 short episodes, for tests
"""

import ml_collections

from data_pipelines.generate.config import default_config, shrink
from swm_jax.choices import known

ARGS = ("default", "paper", "debug")


def get_config(arg: str = "default") -> ml_collections.ConfigDict:
    """Config of a variant; raises a ValueError for unknown names."""
    arg = known("variant of generate_cube.py", arg or "default", ARGS)
    config = default_config("cube")
    if arg == "paper":
        config.episodes, config.episodes_per_shard = 3000, 10
        config.min_steps = config.max_steps = 1000
        config.mixture = ml_collections.ConfigDict({"play": 0.5, "noisy": 0.5})
        config.height = config.width = 224
    if arg == "debug":
        shrink(config)
    return config
