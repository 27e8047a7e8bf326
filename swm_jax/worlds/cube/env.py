"""Cube env: a gripper and one to four cubes on a table, on either engine.

OGBench's visual-cube world with a Cartesian gripper. An action in [-1, 1]^5 is relative
to the gripper's pose: x, y, z by up to 0.05 m, yaw by up to 0.3 rad, and the closing by
up to its whole range. As in OGBench, holding a cube takes a constant closing action: at
0 the target is the current opening, and the grip fades. An engine of `swm_jax.envs`
adds the physics; `worlds.load_env("cube")` combines the two.

Axes: B worlds, H control steps, n cubes. Positions in metres, angles in radians (yaw is
unwrapped, so that turns can be counted).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import mujoco
from flax import struct
from jaxtyping import Float, Int, Key

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.choices import known
from swm_jax.envs.env import MjcfEnv, check_physics_step
from swm_jax.envs.scene import array_namespace
from swm_jax.worlds.cube import geometry as geometry
from swm_jax.worlds.cube.model import HAND_DOFS, MAX_CUBES, cube_model
from swm_jax.worlds.cube.render.looks import CUBE_LOOKS
from swm_jax.worlds.cube.scene import CUBES, CubeScene

CUBE_GAP = 0.06  # metres between the centres of cubes after a reset, at least
_TRIES = 32  # candidate places per cube; nine tenths of the table are free


def default_config() -> ml_collections.ConfigDict:
    """Settings of the cube env."""
    return ml_collections.ConfigDict(
        {
            "cubes": 4,  # 1 to 4
            "look": "default",  # of pictures, a key of render.looks.CUBE_LOOKS
            "episode_length": 200,  # control steps until truncation by wrappers
            "control_period": 0.1,  # seconds; OGBench's own is 0.05
            "physics_dt": 0.01,  # seconds; divides the control period
            "iterations": 20,  # of the contact solver per physics step, at most
            "threads": 0,  # of the C engine; 0 takes every core
        }
    )


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for invalid settings."""
    if not 1 <= config.cubes <= MAX_CUBES:
        raise ValueError(f"cubes is {config.cubes}, expected 1 to {MAX_CUBES}")
    known("look", config.look, CUBE_LOOKS)
    check_physics_step(config.physics_dt, config.control_period)


class CubeState(struct.PyTreeNode):
    """State of the physics, with any leading batch axes.

    Attributes:
      qpos: float32[..., 6 + 7 n], hand x, y, z, yaw, left and right finger, then every
        cube's x, y, z and quaternion w, x, y, z.
      qvel: float32[..., 6 + 6 n], their rates per second.
      block_id: int32[..., n], which cube is in each slot.
      step: int32[...], control steps since the reset.
    """

    qpos: Float[Array, "... q"]
    qvel: Float[Array, "... v"]
    block_id: Int[Array, "... n"]
    step: Int[Array, "..."]


class CubeEnv(MjcfEnv[CubeState, CubeScene]):
    """Cube env without an engine.

    Attributes:
      action_limit: 1; larger actions are clipped.
    """

    world = "cube"
    action_size = 5
    action_limit = 1.0
    action_names = "x, y, z, yaw and grip, each in -1..1"

    def __init__(self, config: ml_collections.ConfigDict):
        self.config = config
        self.block_ids = CUBES[: config.cubes]
        self.physics_steps = round(config.control_period / config.physics_dt)

    def physics_model(self) -> mujoco.MjModel:
        return cube_model(
            cubes=self.config.cubes,
            physics_dt=self.config.physics_dt,
            iterations=self.config.iterations,
            visuals=False,
            # In MJX's float32, elliptic cones diverge at some grasps.
            cone="pyramidal" if self.backend == "mjx" else "elliptic",
        )

    @staticmethod
    def fresh(key: Key[jax.Array, ""], block_ids: tuple[int, ...]) -> CubeState:
        return place(key, block_ids)

    def command(
        self, state: CubeState, action: Float[Array, "... 5"]
    ) -> tuple[CubeState, Float[Array, "... 6"]]:
        """Targets of the six servos, relative to the gripper's current pose."""
        qpos, xp = state.qpos, array_namespace(state.qpos, action)
        scale = xp.asarray(geometry.ACTION_SCALE, xp.float32)
        move = xp.clip(action, -1.0, 1.0).astype(xp.float32) * scale
        low, high = (
            xp.asarray(each, xp.float32)
            for each in (geometry.WORKSPACE_LOW, geometry.WORKSPACE_HIGH)
        )
        place = xp.clip(qpos[..., :3] + move[..., :3], low, high)
        yaw = qpos[..., 3:4] + move[..., 3:4]
        # Both fingers get the mean opening as a base, which centres a held cube.
        gap = 0.5 * (qpos[..., 4:5] + qpos[..., 5:6])
        gap = xp.clip(gap - geometry.MAX_GAP * move[..., 4:5], 0.0, geometry.MAX_GAP)
        return state, xp.concatenate([place, yaw, gap, gap], -1).astype(xp.float32)

    def scene(self, state: CubeState) -> CubeScene:
        """Reads the poses out of a state with any leading axes."""
        pose = state.qpos[..., HAND_DOFS:]
        return CubeScene(
            block_pose=pose.reshape(*pose.shape[:-1], pose.shape[-1] // 7, 7),
            block_id=state.block_id,
            gripper=state.qpos[..., :HAND_DOFS],
        )

    def state_from_scene(self, scene: CubeScene) -> CubeState:
        """A state at rest with these poses."""
        xp = array_namespace(scene)
        lead, cubes = scene.batch_shape, scene.block_id.shape[-1]
        pose = xp.asarray(scene.block_pose, xp.float32)
        gripper = xp.asarray(scene.gripper, xp.float32)
        qpos = xp.concatenate([gripper, pose.reshape(*lead, 7 * cubes)], -1)
        return CubeState(
            qpos=qpos,
            qvel=xp.zeros((*lead, HAND_DOFS + 6 * cubes), xp.float32),
            block_id=xp.asarray(scene.block_id, xp.int32),
            step=xp.zeros(lead, xp.int32),
        )


@functools.partial(jax.jit, static_argnames="block_ids")
def place(key: Key[jax.Array, ""], block_ids: tuple[int, ...]) -> CubeState:
    """Initial state: the gripper in the air and cubes scattered, at rest."""
    hand_key, yaw_key, place_key, turn_key = prng.split(key, 4)
    low, high = (
        jnp.asarray(each) for each in (geometry.START_LOW, geometry.START_HIGH)
    )
    hand = prng.uniform(hand_key, (3,), minval=low, maxval=high)
    yaw = prng.uniform(yaw_key, (1,), minval=-jnp.pi, maxval=jnp.pi)
    gripper = jnp.concatenate([hand, yaw, jnp.full(2, geometry.MAX_GAP)])
    count = len(block_ids)
    spots = scatter(place_key, count)
    half_turn = prng.uniform(turn_key, (count,), maxval=jnp.pi)
    return state_at_rest(gripper, upright(spots, 2 * half_turn), block_ids)


def scatter(key: Key[jax.Array, ""], count: int) -> Float[Array, "n 2"]:
    """Random positions of cubes on the table, at least `CUBE_GAP` apart.

    Each takes the first of `_TRIES` uniform positions that is clear of the cubes before
    it; if none is, the one farthest from them.
    """
    low, high = (jnp.asarray(each) for each in (geometry.CUBE_LOW, geometry.CUBE_HIGH))
    spots = jnp.full((count, 2), 10.0)  # cubes to come are far away
    for slot in range(count):
        tries = prng.uniform(
            prng.fold_in(key, slot), (_TRIES, 2), minval=low, maxval=high
        )
        apart = jnp.linalg.norm(tries[:, None] - spots, axis=-1).min(-1)
        first_clear = jnp.argmax(jnp.where(apart > CUBE_GAP, jnp.inf, apart))
        spots = spots.at[slot].set(tries[first_clear])
    return spots


def upright(
    spots: Float[Array, "n 2"], yaw: Float[Array, " n"], height: Any = 0.0
) -> Float[Array, "n 7"]:
    """Poses of cubes that stand at `spots`, their bottoms `height` above the table."""
    zero = jnp.zeros_like(yaw)
    z = geometry.CUBE_HALF + height + zero
    turn = [jnp.cos(yaw / 2), zero, zero, jnp.sin(yaw / 2)]
    return jnp.stack([spots[..., 0], spots[..., 1], z, *turn], -1)


def state_at_rest(
    gripper: Float[Array, "6"], block_pose: Float[Array, "n 7"], block_ids: Any
) -> CubeState:
    """One world at rest, in JAX arrays."""
    return CubeState(
        qpos=jnp.concatenate([gripper, block_pose.reshape(-1)]),
        qvel=jnp.zeros(HAND_DOFS + 6 * len(block_pose)),
        block_id=jnp.asarray(block_ids, jnp.int32),
        step=jnp.zeros((), jnp.int32),
    )
