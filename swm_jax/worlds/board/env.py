"""Board env: a peg pushes eight blocks on a table, on either engine.

Language-Table in the plane: the action is added to the peg's target position, which is
clipped to the board; one control step is 0.1 s. This module has the settings and the
reset. State, action and conversion to a `Scene` are shared by all pushing worlds
(`envs/pushing.py`), whose engines add the physics; `swm_jax.worlds.load_env` combines
the two.

Axes: B worlds, H control steps. Positions in metres, angles in radians (unwrapped, so
that turns can be counted).
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Bool, Float, Key

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.choices import known
from swm_jax.envs.env import check_physics_step
from swm_jax.envs.pushing import PushingEnv, State, state_at_rest
from swm_jax.worlds.board import geometry
from swm_jax.worlds.board.model import (
    BLOCK_BOUNDS,
    FRICTION_RADIUS,
    NUM_BLOCKS,
    block_radius,
    board_mjcf,
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
            "episode_length": 120,  # control steps until truncation by wrappers
            "action_limit": geometry.ACTION_LIMIT,  # metres per step and axis
            "physics_dt": 0.01,  # seconds; divides the control period of 0.1
            "iterations": 4,  # of the contact solver per physics step
            "friction": geometry.FRICTION,  # between blocks and table
            "threads": 0,  # of the C engine; 0 takes every core
        }
    )


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for invalid settings."""
    known("block set", config.block_set, BLOCK_SETS)
    known("look", config.look, LOOKS)
    check_physics_step(config.physics_dt, geometry.CONTROL_PERIOD)


class BoardEnv(PushingEnv):
    """Board env without an engine."""

    world = "board"
    scene_kind = Scene
    mjcf = staticmethod(board_mjcf)
    peg_box = geometry.PEG_BOX
    control_period = geometry.CONTROL_PERIOD
    num_blocks = NUM_BLOCKS
    friction_radius = FRICTION_RADIUS

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self.block_ids = BLOCK_SETS[config.block_set]

    @staticmethod
    def fresh(key: Key[jax.Array, ""], block_ids: tuple[int, ...]) -> State:
        return place(key, block_ids)


@functools.partial(jax.jit, static_argnames="block_ids")
def place(key: Key[jax.Array, ""], block_ids: tuple[int, ...]) -> State:
    """Initial state: peg and blocks scattered over the board, at rest."""
    peg_key, place_key, yaw_key = prng.split(key, 3)
    peg = uniform_place(peg_key)
    nowhere = jnp.zeros((NUM_BLOCKS, 2)), jnp.zeros(NUM_BLOCKS, bool)
    placed = scatter(place_key, peg, *nowhere)
    yaw = prng.uniform(yaw_key, (NUM_BLOCKS, 1), minval=-jnp.pi, maxval=jnp.pi)
    return state_at_rest(jnp.concatenate([placed, yaw], -1), peg, block_ids)


def uniform_place(
    key: Key[jax.Array, ""], shape: tuple[int, ...] = (), inset: float = 0.0
) -> Float[Array, "*shape 2"]:
    """Uniform positions in the blocks' bounds, `inset` metres from their walls."""
    low, high = (jnp.asarray(corner) for corner in BLOCK_BOUNDS)
    return prng.uniform(key, (*shape, 2), minval=low + inset, maxval=high - inset)


def scatter(
    key: Key[jax.Array, ""],
    peg: Float[Array, "2"],
    placed: Float[Array, "8 2"],
    fixed: Bool[Array, "8"],
) -> Float[Array, "8 2"]:
    """Random positions for the blocks that are not fixed, one after the other.

    Each takes the first of `_TRIES` uniform positions at least `BLOCK_GAP` from fixed
    and earlier blocks (measured between circumscribed circles) and `PEG_CLEARANCE` from
    the peg.
    """
    radius = jnp.asarray([block_radius(shape) for shape in SLOT_SHAPES])

    def put(carry, slot):
        placed, there = carry
        tries = uniform_place(prng.fold_in(key, slot), (_TRIES,))
        apart = jnp.linalg.norm(tries[:, None] - placed, axis=-1)
        free = jnp.all((apart > radius[slot] + radius + BLOCK_GAP) | ~there, -1)
        free &= jnp.linalg.norm(tries - peg, axis=-1) > PEG_CLEARANCE
        chosen = jnp.where(there[slot], placed[slot], tries[jnp.argmax(free)])
        return (placed.at[slot].set(chosen), there.at[slot].set(True)), None

    (placed, _), _ = jax.lax.scan(put, (placed, fixed), jnp.arange(NUM_BLOCKS))
    return placed
