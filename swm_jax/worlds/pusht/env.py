"""Push-T env: a peg pushes a T on a table, on either engine.

The action is added to the peg's target position, which is clipped to the table; one
control step is 0.1 s, as in `gym_pusht`. There the action is the target itself: its
target p is the action p - target here. Resets have the same distribution, except for a
T beyond the table's edge or a peg inside the T, which are redrawn. The physics differs:
the peg covers 91 % of a step within it (26 % there), contacts have no friction, and the
T is slowed by the table's dry friction, where there it stops at once.

Axes: B worlds, H control steps. Positions in metres, angles in radians (unwrapped, so
that turns can be counted).
"""

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Float, Key

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.choices import known
from swm_jax.envs.env import check_physics_step
from swm_jax.envs.pushing import PushingEnv, State, state_at_rest
from swm_jax.worlds.pusht import geometry
from swm_jax.worlds.pusht.model import pusht_mjcf
from swm_jax.worlds.pusht.overlap import from_handle, t_gap
from swm_jax.worlds.pusht.render.looks import LOOKS
from swm_jax.worlds.pusht.scene import Scene

PEG_CLEARANCE = 0.01  # metres from the peg's edge to the T after a reset
_HANDLES = (0.1, 0.4)  # metres, gym_pusht's pixels 100 to 400, in both axes
_PEGS = (0.05, 0.45)
_TRIES = 32  # candidate places of the peg; nine tenths of the table are free


def default_config() -> ml_collections.ConfigDict:
    """Settings of the Push-T env."""
    return ml_collections.ConfigDict(
        {
            "look": "default",  # of pictures, a key of looks.LOOKS
            "episode_length": 300,  # control steps until truncation by wrappers
            "action_limit": geometry.ACTION_LIMIT,  # metres per step and axis
            "physics_dt": 0.01,  # seconds; divides the control period of 0.1
            "iterations": 4,  # of the contact solver per physics step
            "friction": geometry.FRICTION,  # between T and table
            "threads": 0,  # of the C engine; 0 takes every core
        }
    )


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for invalid settings."""
    known("look", config.look, LOOKS)
    check_physics_step(config.physics_dt, geometry.CONTROL_PERIOD)


class PushTEnv(PushingEnv):
    """Push-T env without an engine."""

    world = "pusht"
    scene_kind = Scene
    mjcf = staticmethod(pusht_mjcf)
    peg_box = geometry.PEG_BOX
    control_period = geometry.CONTROL_PERIOD
    num_blocks = 1
    friction_radius = geometry.FRICTION_RADIUS
    block_ids = (0,)

    @staticmethod
    def fresh(key: Key[jax.Array, ""], block_ids: tuple[int, ...]) -> State:
        del block_ids  # there is one T
        return place(key)


@jax.jit
def place(key: Key[jax.Array, ""]) -> State:
    """Initial state at rest: T and peg at random positions, the T at a random angle."""
    handle_key, yaw_key, peg_key = prng.split(key, 3)
    low, high = _HANDLES
    handle = prng.uniform(handle_key, (2,), minval=low, maxval=high)
    yaw = prng.uniform(yaw_key, minval=-jnp.pi, maxval=jnp.pi)
    pose = from_handle(_upside_down(handle), yaw)
    xy = jnp.clip(pose[:2], *jnp.asarray(geometry.T_BOX))
    pose = jnp.append(xy, yaw)
    return state_at_rest(pose[None], free_peg(peg_key, pose), (0,))


def free_peg(key: Key[jax.Array, ""], pose: Float[Array, "3"]) -> Float[Array, "2"]:
    """Random position of the peg at least `PEG_CLEARANCE` from the T."""
    low, high = _PEGS
    pegs = prng.uniform(key, (_TRIES, 2), minval=low, maxval=high)
    pegs = _upside_down(pegs)
    gap = t_gap(pose, pegs) - geometry.PEG_RADIUS
    return pegs[jnp.argmax(gap > PEG_CLEARANCE)]


def _upside_down(uv: Float[Array, "... 2"]) -> Float[Array, "... 2"]:
    """gym_pusht's (u, v), v down, as x and y; metres."""
    return jnp.stack([uv[..., 0], geometry.SIDE - uv[..., 1]], -1)
