"""Data set of the board, for `python -m data_pipelines.generate`.

generate_board.py           2,000 episodes of about 40 frames, minutes on a laptop
generate_board.py:large     20,000 episodes, for accelerators
generate_board.py:paper     for board_3b: 5,000 episodes of the oracle and
                            1,700 of uniform actions, up to 180 steps, 180 x 320 pixels
generate_board.py:debug     4 short episodes, for tests
"""

import ml_collections

from data_pipelines.generate.config import default_config, shrink
from swm_jax.choices import known

ARGS = ("default", "large", "paper", "debug")


def get_config(arg: str = "default") -> ml_collections.ConfigDict:
    """Config of a variant; raises a ValueError for unknown names."""
    arg = known("variant of generate_board.py", arg or "default", ARGS)
    config = default_config("board")
    config.episodes, config.episodes_per_shard = 2000, 60
    if arg == "large":
        config.episodes = 20_000
        config.episodes_per_shard = 250
    if arg == "paper":
        config.episodes, config.episodes_per_shard = 6700, 50
        config.min_steps, config.max_steps = 60, 180  # the longest horizon is 60
        config.height, config.width = 180, 320
        config.mixture = ml_collections.ConfigDict(
            {"oracle": 5000 / 6700, "random": 1700 / 6700}
        )
    if arg == "debug":
        shrink(config)
    return config
