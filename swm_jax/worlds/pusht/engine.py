"""Push-T on both engines, with the table's friction after every physics step."""

from swm_jax.envs.pushing import MjxPushing, MujocoPushing
from swm_jax.worlds.pusht.env import PushTEnv, State
from swm_jax.worlds.pusht.scene import Scene


class MjxPushT(MjxPushing[State, Scene], PushTEnv):
    """MJX backend; every method may be traced."""


class MujocoPushT(MujocoPushing[State, Scene], PushTEnv):
    """C engine backend; safe to call from several threads, one call at a time."""
