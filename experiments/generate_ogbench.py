"""Data set of OGBench's env and oracles, for `data_pipelines.generate_ogbench`.

generate_ogbench.py           200 episodes of visual-cube-double, hours on a CPU
generate_ogbench.py:debug     3 short ones, for tests

OGBench's renderer makes a few frames per second: for large data sets run several
processes with different seeds and folders, and train on a mixture of the folders.
"""

import ml_collections

from swm_jax.choices import known

ARGS = ("default", "debug")


def get_config(arg: str = "default") -> ml_collections.ConfigDict:
    """Config of a variant; raises a ValueError for unknown names."""
    arg = known("variant of generate_ogbench.py", arg or "default", ARGS)
    config = ml_collections.ConfigDict()
    config.name = "ogbench"
    config.variant = "double"
    config.seed = 0
    config.episodes = 200
    config.val_share = 0.1
    config.episodes_per_shard = 10
    config.steps = 64
    config.mixture = ml_collections.ConfigDict({"play": 0.5, "noisy": 0.5})
    config.noise = 0.4  # largest standard deviation on an action, of the noisy policy
    config.size = 64  # pixels, as in OGBench's own files
    config.control_period = 0.1  # seconds, as in the paper; OGBench's files have 0.05
    if arg == "debug":
        config.episodes, config.episodes_per_shard, config.steps = 3, 1, 20
        config.val_share = 0.34
    return config
