"""Envs in which a peg pushes blocks on a table, on both engines.

Blocks move on planar joints (x, y, yaw), which come first in `qpos` and `qvel`. The
table's friction is a projection of the velocities after each physics step: a block's
(vx, vy, c w) is scaled by max(0, 1 - mu g dt / norm). This couples sliding and spinning
like dry friction, without rows in the contact solver. MJX applies it inside its program
per world; the C engine steps all worlds once, then numpy applies it to all of them.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections
import mujoco
import numpy as np
from flax import struct
from jaxtyping import Float, Int
from mujoco import batch

from swm_jax.arrays import Array
from swm_jax.envs.env import MjcfEnv
from swm_jax.envs.mjx_engine import MjxEngine
from swm_jax.envs.mujoco_engine import MujocoEngine
from swm_jax.envs.scene import array_namespace

GRAVITY = 9.81


class State(struct.PyTreeNode):
    """State of the physics, with any leading batch axes.

    Attributes:
      qpos: float32[..., 3 K + 2], (x, y, yaw) of the K blocks, then peg (x, y).
      qvel: float32[..., 3 K + 2], their rates per second.
      target: float32[..., 2], target position of the peg.
      block_id: int32[..., K], id of the block in each slot.
      step: int32[...], control steps since the reset.
    """

    qpos: Float[Array, "... v"]
    qvel: Float[Array, "... v"]
    target: Float[Array, "... 2"]
    block_id: Int[Array, "... K"]
    step: Int[Array, "..."]


def state_at_rest(
    block_pose: Float[Array, "K 3"], peg: Float[Array, "2"], block_ids: Any
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


class PushingEnv(MjcfEnv[State, Any]):
    """Pushing env without an engine.

    An action is added to the peg's target position, which is clipped to `peg_box`.

    Attributes:
      scene_kind: makes scenes of `block_pose` [..., K, 3], `block_id` [..., K] and
        `peg` [..., 2].
      mjcf: (physics_dt, iterations, visuals) -> text of the model.
      peg_box: float32[2, 2], low corner, then high corner.
      control_period: seconds.
      action_limit: the simulator's box; larger actions are clipped.
      num_blocks: K, number of blocks.
      friction_radius: c, metres; weighs spin against slide.
      slowdown: mu g dt, metres per second that friction takes in a physics step.
    """

    action_size = 2
    action_names = "the peg's displacement (x, y) in metres"
    scene_kind: type
    mjcf: Callable[..., str]
    peg_box: np.ndarray
    control_period: float
    num_blocks: int
    friction_radius: float

    def __init__(self, config: ml_collections.ConfigDict):
        self.config = config
        self.action_limit = float(config.action_limit)
        self.physics_steps = round(self.control_period / config.physics_dt)
        self.slowdown = config.friction * GRAVITY * config.physics_dt

    def physics_model(self) -> mujoco.MjModel:
        text = self.mjcf(
            physics_dt=self.config.physics_dt,
            iterations=self.config.iterations,
            visuals=False,
        )
        return mujoco.MjModel.from_xml_string(text)

    def command(
        self, state: State, action: Float[Array, "... 2"]
    ) -> tuple[State, Float[Array, "... 2"]]:
        xp = array_namespace(state.target, action)
        move = xp.clip(action, -self.action_limit, self.action_limit)
        target = xp.clip(state.target + move, *self.peg_box)
        return state.replace(target=target), target

    def scene(self, state: State) -> Any:
        """Reads the poses out of a state with any leading axes."""
        pose = state.qpos[..., : 3 * self.num_blocks]
        return self.scene_kind(
            block_pose=pose.reshape(*pose.shape[:-1], self.num_blocks, 3),
            block_id=state.block_id,
            peg=state.qpos[..., 3 * self.num_blocks :],
        )

    def state_from_scene(self, scene: Any) -> State:
        """A state at rest with these poses; the peg's target is where it stands."""
        xp = array_namespace(scene)
        lead = scene.batch_shape
        blocks = xp.asarray(scene.block_pose, xp.float32)
        peg = xp.asarray(scene.peg, xp.float32)
        qpos = xp.concatenate([blocks.reshape(*lead, 3 * self.num_blocks), peg], -1)
        return State(
            qpos=qpos,
            qvel=xp.zeros_like(qpos),
            target=peg,
            block_id=xp.asarray(scene.block_id, xp.int32),
            step=xp.zeros(lead, xp.int32),
        )


class MjxPushing(MjxEngine[State, Any], PushingEnv):
    """MJX with the table's friction; all methods are traceable."""

    def _after_physics_step(self, qvel: Float[Array, " v"]) -> Float[Array, " v"]:
        """Velocities after the table's dry friction."""
        count = 3 * self.num_blocks
        slide = qvel[:count].reshape(self.num_blocks, 3)
        weights = jnp.array([1.0, 1.0, self.friction_radius**2])
        speed = jnp.sqrt(
            jnp.maximum((slide**2 * weights).sum(-1, keepdims=True), 1e-18)
        )
        slide = slide * jnp.maximum(0.0, 1.0 - self.slowdown / speed)
        return jnp.concatenate([slide.reshape(-1), qvel[count:]])


class MujocoPushing(MujocoEngine[State, Any], PushingEnv):
    """The C engine with the table's friction; thread-safe."""

    def _physics(
        self, pool: batch.Batch, ids: np.ndarray | None, qvel: np.ndarray
    ) -> None:
        for _ in range(self.physics_steps):
            pool.step(ids)
            qvel[:, : 3 * self.num_blocks] *= self._friction_scale(qvel)

    def _friction_scale(self, qvel: np.ndarray) -> np.ndarray:
        """Factors by which dry friction scales each block's velocity, [B, 3 K]."""
        slide = qvel[:, : 3 * self.num_blocks].reshape(-1, self.num_blocks, 3)
        # Norm of (vx, vy, c w): spin counts by the velocity at the friction radius.
        weights = np.array([1.0, 1.0, self.friction_radius**2])
        speed = np.sqrt(np.einsum("bki,bki,i->bk", slide, slide, weights))
        left = np.maximum(0.0, 1.0 - self.slowdown / np.maximum(speed, 1e-9))
        return np.repeat(left, 3, axis=-1)
