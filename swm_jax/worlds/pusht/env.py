"""The Push-T env: a peg pushes a T about a table, on either engine.

The action is added to the peg's target position, which is clipped to the table; one
control step is 0.1 s, as in `gym_pusht`, whose action is the target itself: its target
p is the action p - target here. Resets are drawn as there, but for a T that would stick
out of the table and a peg that would stand in the T. What differs in the physics: here
the peg covers 91 % of a step within it (26 % there), contacts have no friction, and the
T is braked by the table's dry friction instead of stopping at once.

Axes: B worlds, H control steps. Positions in metres, angles in radians (not
wrapped, so that turns can be counted).
"""

import jax
import jax.numpy as jnp
import ml_collections
import mujoco
from flax import struct
from jaxtyping import Float, Int, Key

from swm_jax.arrays import Array
from swm_jax.choices import known
from swm_jax.envs.env import MjcfEnv, check_physics_step
from swm_jax.envs.pushing import GRAVITY
from swm_jax.envs.scene import array_namespace
from swm_jax.worlds.pusht import geometry
from swm_jax.worlds.pusht.model import pusht_model
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
            "episode_length": 300,  # control steps before a wrapper truncates
            "action_limit": geometry.ACTION_LIMIT,  # metres per step and axis
            "physics_dt": 0.01,  # seconds; divides the control period of 0.1
            "iterations": 4,  # of the contact solver per physics step
            "friction": geometry.FRICTION,  # between T and table
            "threads": 0,  # of the C engine; 0 takes every core
        }
    )


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for settings that do not fit together."""
    known("look", config.look, LOOKS)
    check_physics_step(config.physics_dt, geometry.CONTROL_PERIOD)


class State(struct.PyTreeNode):
    """Everything the physics needs; any leading batch axes.

    Attributes:
      qpos: float32[..., 5], x, y, yaw of the T, then peg x, y.
      qvel: float32[..., 5], their rates per second.
      target: float32[..., 2], where the peg is heading.
      block_id: int32[..., 1], 0, the T.
      step: int32[...], control steps since the reset.
    """

    qpos: Float[Array, "... 5"]
    qvel: Float[Array, "... 5"]
    target: Float[Array, "... 2"]
    block_id: Int[Array, "... 1"]
    step: Int[Array, "..."]


class PushTEnv(MjcfEnv[State, Scene]):
    """Push-T, without an engine.

    Attributes:
      action_limit: the simulator's box; larger actions are clipped.
    """

    world = "pusht"
    action_size = 2
    action_names = "the peg's displacement (x, y) in metres"
    num_blocks = 1
    friction_radius = geometry.FRICTION_RADIUS
    block_ids = (0,)

    def __init__(self, config: ml_collections.ConfigDict):
        self.config = config
        self.action_limit = float(config.action_limit)
        self.physics_steps = round(geometry.CONTROL_PERIOD / config.physics_dt)
        self.slowdown = config.friction * GRAVITY * config.physics_dt

    def physics_model(self) -> mujoco.MjModel:
        return pusht_model(
            physics_dt=self.config.physics_dt,
            iterations=self.config.iterations,
            visuals=False,
        )

    @staticmethod
    def fresh(key: Key[jax.Array, ""], block_ids: tuple[int, ...]) -> State:
        del block_ids  # there is one T
        return place(key)

    def command(
        self, state: State, action: Float[Array, "... 2"]
    ) -> tuple[State, Float[Array, "... 2"]]:
        xp = array_namespace(state.target, action)
        move = xp.clip(action, -self.action_limit, self.action_limit)
        target = xp.clip(state.target + move, *geometry.PEG_BOX)
        return state.replace(target=target), target

    def scene(self, state: State) -> Scene:
        """Reads the poses out of a state with any leading axes."""
        return Scene(
            block_pose=state.qpos[..., None, :3],
            block_id=state.block_id,
            peg=state.qpos[..., 3:],
        )

    def state_from_scene(self, scene: Scene) -> State:
        """A state at rest with these poses; the peg's target is where it stands."""
        xp = array_namespace(scene)
        pose = xp.asarray(scene.block_pose, xp.float32)[..., 0, :]
        peg = xp.asarray(scene.peg, xp.float32)
        qpos = xp.concatenate([pose, peg], -1)
        return State(
            qpos=qpos,
            qvel=xp.zeros_like(qpos),
            target=peg,
            block_id=xp.asarray(scene.block_id, xp.int32),
            step=xp.zeros(scene.batch_shape, xp.int32),
        )


@jax.jit
def place(key: Key[jax.Array, ""]) -> State:
    """A fresh world at rest: T and peg anywhere, the T at any angle."""
    handle_key, yaw_key, peg_key = jax.random.split(key, 3)
    low, high = _HANDLES
    handle = jax.random.uniform(handle_key, (2,), minval=low, maxval=high)
    yaw = jax.random.uniform(yaw_key, minval=-jnp.pi, maxval=jnp.pi)
    pose = from_handle(_upside_down(handle), yaw)
    xy = jnp.clip(pose[:2], *jnp.asarray(geometry.T_BOX))
    pose = jnp.append(xy, yaw)
    return state_at_rest(pose, free_peg(peg_key, pose))


def free_peg(key: Key[jax.Array, ""], pose: Float[Array, "3"]) -> Float[Array, "2"]:
    """A place for the peg that keeps `PEG_CLEARANCE` from the T."""
    low, high = _PEGS
    pegs = jax.random.uniform(key, (_TRIES, 2), minval=low, maxval=high)
    pegs = _upside_down(pegs)
    gap = t_gap(pose, pegs) - geometry.PEG_RADIUS
    return pegs[jnp.argmax(gap > PEG_CLEARANCE)]


def state_at_rest(pose: Float[Array, "3"], peg: Float[Array, "2"]) -> State:
    """One world at rest, in JAX arrays."""
    qpos = jnp.concatenate([pose, peg])
    return State(
        qpos=qpos,
        qvel=jnp.zeros_like(qpos),
        target=peg,
        block_id=jnp.zeros(1, jnp.int32),
        step=jnp.zeros((), jnp.int32),
    )


def _upside_down(uv: Float[Array, "... 2"]) -> Float[Array, "... 2"]:
    """gym_pusht's (u, v), v down, as x and y; metres."""
    return jnp.stack([uv[..., 0], geometry.SIDE - uv[..., 1]], -1)
