"""Push-T on both engines, with the table's friction after every physics step."""

from swm_jax.envs.pushing import MjxPushing, MujocoPushing
from swm_jax.worlds.pusht.env import PushTEnv


class MjxPushT(MjxPushing, PushTEnv):
    """MJX backend; every method may be traced."""


class MujocoPushT(MujocoPushing, PushTEnv):
    """C engine backend; safe to call from several threads, one call at a time."""
