"""Data set of Push-T, for `python -m data_pipelines.generate`.

generate_pusht.py           2,000 episodes of about 40 frames, minutes on a laptop
generate_pusht.py:debug     4 short episodes, for tests
"""

import ml_collections

from data_pipelines.generate.config import default_config, shrink
from swm_jax.choices import known

ARGS = ("default", "debug")


def get_config(arg: str = "default") -> ml_collections.ConfigDict:
    """Config of a variant; raises a ValueError for unknown names."""
    arg = known("variant of generate_pusht.py", arg or "default", ARGS)
    config = default_config("pusht")
    config.episodes, config.episodes_per_shard = 2000, 60
    if arg == "debug":
        shrink(config)
    return config
