"""The board on both engines, with the table's friction after every physics step."""

from swm_jax.envs.pushing import MjxPushing, MujocoPushing
from swm_jax.worlds.board.env import BoardEnv


class MjxBoard(MjxPushing, BoardEnv):
    """MJX backend; every method may be traced."""


class MujocoBoard(MujocoPushing, BoardEnv):
    """C engine backend; safe to call from several threads, one call at a time."""
