"""Data set of the board, for `python -m data_pipelines.generate`.

generate_board.py           2,000 episodes of about 40 frames, minutes on a laptop
generate_board.py:large     20,000 episodes, for accelerators
generate_board.py:branches  10,000 starts with 16 chunks of 16 steps each, as poses,
                            for batches of several chunks per image
generate_board.py:paper     for board_3b: 5,000 episodes of the oracle and
                            1,700 of uniform actions, up to 180 steps, 180 x 320 pixels
generate_board.py:debug     4 short episodes, for tests
"""

import ml_collections

from data_pipelines.generate.config import default_config, shrink
from swm_jax.choices import known

ARGS = ("default", "large", "branches", "paper", "debug")


def get_config(arg: str = "default") -> ml_collections.ConfigDict:
    """Config of a variant; raises a ValueError for unknown names."""
    arg = known("variant of generate_board.py", arg or "default", ARGS)
    config = default_config("board")
    config.episodes, config.episodes_per_shard = 2000, 60
    if arg == "large":
        config.episodes = 20_000
        config.episodes_per_shard = 250
    if arg == "branches":
        config.branches = config.min_steps = config.max_steps = config.lead = 16
        config.episodes, config.episodes_per_shard = 160_000, 4000
        config.val_share = 0.02
        # Pushes and near misses from the present state, and what planners draw.
        config.mixture = ml_collections.ConfigDict(
            {"noisy": 0.1, "contact": 0.6, "smooth": 0.3}
        )
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
