"""The board's data set: what `python -m data_pipelines.generate` makes.

generate_board.py           2,000 episodes of about 40 frames, minutes on a laptop
generate_board.py:large     20,000 episodes, for accelerators
generate_board.py:paper     what board_3b trains on: 5,000 episodes of the oracle and
                            1,700 of uniform actions, up to 180 steps, 180 x 320 pixels
generate_board.py:debug     4 short episodes, for tests
"""

import difflib

import ml_collections

ARGS = ("default", "large", "paper", "debug")


def get_config(arg: str = "default") -> ml_collections.ConfigDict:
    """The config of a size; unknown names are refused."""
    arg = arg or "default"
    if arg not in ARGS:
        close = difflib.get_close_matches(arg, ARGS, 1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(
            f"generate_board.py has no variant '{arg}'{hint}; known: {', '.join(ARGS)}"
        )
    config = ml_collections.ConfigDict()
    config.name = "board"
    config.seed = 0
    config.episodes = 2000
    config.val_share = 0.1  # episodes, the last ones
    config.episodes_per_shard = 60
    config.min_steps = 32  # actions; a length is drawn for every episode
    config.max_steps = 48
    config.mixture = ml_collections.ConfigDict(
        {"oracle": 0.2, "noisy": 0.2, "random": 0.1, "contact": 0.3, "smooth": 0.2}
    )
    config.near_share = 0.5  # starts with blocks and peg beside each other
    config.backend = ""  # "mujoco", "mjx", or what suits the machine
    config.block_set = "standard"
    config.look = "default"
    config.height = 96
    config.width = 96
    config.supersample = 2
    if arg == "large":
        config.episodes = 20_000
        config.episodes_per_shard = 250
    if arg == "paper":
        config.episodes, config.episodes_per_shard = 6700, 50
        config.min_steps, config.max_steps = 60, 180  # questions look 60 ahead
        config.height, config.width = 180, 320
        config.mixture = ml_collections.ConfigDict(
            {"oracle": 5000 / 6700, "random": 1700 / 6700}
        )
    if arg == "debug":
        config.episodes, config.val_share, config.episodes_per_shard = 4, 0.25, 2
        config.min_steps, config.max_steps = 16, 20
        config.height = config.width = 32
        config.supersample = 1
    return config
