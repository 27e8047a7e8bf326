"""The board env: a peg pushes eight blocks about a table, on either engine.

Language-Table's world in the plane: the action is added to the peg's target
position, which is clipped to the board; one control step is 0.1 s. The world is
described here: the state, its reset and its reading as a `Scene`. `engine.MujocoBoard`
(C engine, CPU hosts) and `engine.MjxBoard` (accelerators) add the physics;
`swm_jax.worlds.load_env` chooses.

Axes: B worlds, H control steps. Positions in metres, angles in radians (not
wrapped, so that turns can be counted).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import mujoco
from flax import struct
from jaxtyping import Bool, Float, Int, Key

from swm_jax.arrays import Array
from swm_jax.choices import known
from swm_jax.envs.env import MjcfEnv, check_physics_step
from swm_jax.envs.pushing import GRAVITY
from swm_jax.envs.scene import array_namespace
from swm_jax.worlds.board import geometry as geometry
from swm_jax.worlds.board.model import (
    BLOCK_BOUNDS,
    BLOCK_DOFS,
    FRICTION_RADIUS,
    NUM_BLOCKS,
    block_radius,
    board_model,
)
from swm_jax.worlds.board.render.looks import LOOKS
from swm_jax.worlds.board.scene import BLOCK_SETS, SLOT_SHAPES, Scene

BLOCK_GAP = 0.0175  # metres from edge to edge between blocks after a reset
PEG_CLEARANCE = 0.06  # metres from the peg to any block's centre after a reset
_TRIES = 64  # candidate places per block; a third of the board is always free


def default_config() -> ml_collections.ConfigDict:
    """Settings of the board env."""
    return ml_collections.ConfigDict(
        {
            "block_set": "standard",  # or "unseen"
            "look": "default",  # of pictures, a key of looks.LOOKS
            "episode_length": 120,  # control steps before a wrapper truncates
            "action_limit": geometry.ACTION_LIMIT,  # metres per step and axis
            "physics_dt": 0.01,  # seconds; divides the control period of 0.1
            "iterations": 4,  # of the contact solver per physics step
            "friction": geometry.FRICTION,  # between blocks and table
            "threads": 0,  # of the C engine; 0 takes every core
        }
    )


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for settings that do not fit together."""
    known("block set", config.block_set, BLOCK_SETS)
    known("look", config.look, LOOKS)
    check_physics_step(config.physics_dt, geometry.CONTROL_PERIOD)


class State(struct.PyTreeNode):
    """Everything the physics needs; any leading batch axes.

    Attributes:
      qpos: float32[..., 26], (x, y, yaw) of the eight slots, then peg (x, y).
      qvel: float32[..., 26], their rates per second.
      target: float32[..., 2], where the peg is heading.
      block_id: int32[..., 8], which block sits in each slot.
      step: int32[...], control steps since the reset.
    """

    qpos: Float[Array, "... 26"]
    qvel: Float[Array, "... 26"]
    target: Float[Array, "... 2"]
    block_id: Int[Array, "... 8"]
    step: Int[Array, "..."]


class BoardEnv(MjcfEnv[State, Scene]):
    """The board, without an engine.

    Attributes:
      action_limit: the simulator's box; larger actions are clipped.
    """

    world = "board"
    action_size = 2
    action_names = "the peg's displacement (x, y) in metres"
    num_blocks = NUM_BLOCKS
    friction_radius = FRICTION_RADIUS

    def __init__(self, config: ml_collections.ConfigDict):
        self.config = config
        self.action_limit = float(config.action_limit)
        self.block_ids = BLOCK_SETS[config.block_set]
        self.physics_steps = round(geometry.CONTROL_PERIOD / config.physics_dt)
        self.slowdown = config.friction * GRAVITY * config.physics_dt

    def physics_model(self) -> mujoco.MjModel:
        return board_model(
            physics_dt=self.config.physics_dt,
            iterations=self.config.iterations,
            visuals=False,
        )

    @staticmethod
    def fresh(key: Key[jax.Array, ""], block_ids: tuple[int, ...]) -> State:
        return place(key, block_ids)

    def command(
        self, state: State, action: Float[Array, "... 2"]
    ) -> tuple[State, Float[Array, "... 2"]]:
        xp = array_namespace(state.target, action)
        move = xp.clip(action, -self.action_limit, self.action_limit)
        target = xp.clip(state.target + move, *geometry.PEG_BOX)
        return state.replace(target=target), target

    def scene(self, state: State) -> Scene:
        """Reads the poses out of a state with any leading axes."""
        pose = state.qpos[..., :BLOCK_DOFS]
        return Scene(
            block_pose=pose.reshape(*pose.shape[:-1], NUM_BLOCKS, 3),
            block_id=state.block_id,
            peg=state.qpos[..., BLOCK_DOFS:],
        )

    def state_from_scene(self, scene: Scene) -> State:
        """A state at rest with these poses; the peg's target is where it stands."""
        xp = array_namespace(scene)
        lead = scene.peg.shape[:-1]
        blocks = xp.asarray(scene.block_pose, xp.float32)
        peg = xp.asarray(scene.peg, xp.float32)
        qpos = xp.concatenate([blocks.reshape(*lead, BLOCK_DOFS), peg], -1)
        return State(
            qpos=qpos,
            qvel=xp.zeros_like(qpos),
            target=peg,
            block_id=xp.asarray(scene.block_id, xp.int32),
            step=xp.zeros(lead, xp.int32),
        )


@functools.partial(jax.jit, static_argnames="block_ids")
def place(key: Key[jax.Array, ""], block_ids: tuple[int, ...]) -> State:
    """A fresh world: peg and blocks scattered over the board, at rest."""
    peg_key, place_key, yaw_key = jax.random.split(key, 3)
    peg = uniform_place(peg_key)
    nowhere = jnp.zeros((NUM_BLOCKS, 2)), jnp.zeros(NUM_BLOCKS, bool)
    placed = scatter(place_key, peg, *nowhere)
    yaw = jax.random.uniform(yaw_key, (NUM_BLOCKS, 1), minval=-jnp.pi, maxval=jnp.pi)
    return state_at_rest(jnp.concatenate([placed, yaw], -1), peg, block_ids)


def uniform_place(
    key: Key[jax.Array, ""], shape: tuple[int, ...] = (), inset: float = 0.0
) -> Float[Array, "*shape 2"]:
    """Uniform positions where blocks may lie, `inset` metres from their walls."""
    low, high = (jnp.asarray(corner) for corner in BLOCK_BOUNDS)
    return jax.random.uniform(key, (*shape, 2), minval=low + inset, maxval=high - inset)


def scatter(
    key: Key[jax.Array, ""],
    peg: Float[Array, "2"],
    placed: Float[Array, "8 2"],
    fixed: Bool[Array, "8"],
) -> Float[Array, "8 2"]:
    """Finds places for the blocks that are not fixed, one after the other.

    Each takes the first of `_TRIES` uniform places that keeps it `BLOCK_GAP` from
    the edges of fixed and earlier blocks (counted from circles about their
    outlines) and `PEG_CLEARANCE` from the peg.
    """
    radius = jnp.asarray([block_radius(shape) for shape in SLOT_SHAPES])

    def put(carry, slot):
        placed, there = carry
        tries = uniform_place(jax.random.fold_in(key, slot), (_TRIES,))
        apart = jnp.linalg.norm(tries[:, None] - placed, axis=-1)
        free = jnp.all((apart > radius[slot] + radius + BLOCK_GAP) | ~there, -1)
        free &= jnp.linalg.norm(tries - peg, axis=-1) > PEG_CLEARANCE
        chosen = jnp.where(there[slot], placed[slot], tries[jnp.argmax(free)])
        return (placed.at[slot].set(chosen), there.at[slot].set(True)), None

    (placed, _), _ = jax.lax.scan(put, (placed, fixed), jnp.arange(NUM_BLOCKS))
    return placed


def state_at_rest(
    block_pose: Float[Array, "8 3"], peg: Float[Array, "2"], block_ids: Any
) -> State:
    """One world at rest, in JAX arrays."""
    qpos = jnp.concatenate([block_pose.reshape(-1), peg])
    return State(
        qpos=qpos,
        qvel=jnp.zeros_like(qpos),
        target=peg,
        block_id=jnp.asarray(block_ids, jnp.int32),
        step=jnp.zeros((), jnp.int32),
    )
