"""The board on both engines, with the table's friction after every physics step.

The friction is a projection of the velocities: MJX applies it to one world at a time
inside its own program, the C engine steps every world once and numpy then applies it to
all of them in one operation, ten times per control step.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from mujoco import batch

from swm_jax.envs.mjx_engine import MjxEngine
from swm_jax.envs.mujoco_engine import MujocoEngine
from swm_jax.worlds.board.env import BoardEnv, State
from swm_jax.worlds.board.model import BLOCK_DOFS, FRICTION_RADIUS, NUM_BLOCKS
from swm_jax.worlds.board.scene import Scene

_SPEED_WEIGHTS = np.array([1.0, 1.0, FRICTION_RADIUS**2])


class MjxBoard(MjxEngine[State, Scene], BoardEnv):
    """MJX backend; every method may be traced."""

    def _after_physics_step(self, qvel: Float[Array, "26"]) -> Float[Array, "26"]:
        """What the table's dry friction leaves of the velocities."""
        slide = qvel[:BLOCK_DOFS].reshape(NUM_BLOCKS, 3)
        weights = jnp.array([1.0, 1.0, FRICTION_RADIUS**2])
        speed = jnp.sqrt(
            jnp.maximum((slide**2 * weights).sum(-1, keepdims=True), 1e-18)
        )
        slide = slide * jnp.maximum(0.0, 1.0 - self._slowdown / speed)
        return jnp.concatenate([slide.reshape(-1), qvel[BLOCK_DOFS:]])


class MujocoBoard(MujocoEngine[State, Scene], BoardEnv):
    """C engine backend; safe to call from several threads, one call at a time."""

    def _physics(
        self, pool: batch.Batch, ids: np.ndarray | None, qvel: np.ndarray
    ) -> None:
        for _ in range(self.physics_steps):
            pool.step(ids)
            qvel[:, :BLOCK_DOFS] *= self._friction_scale(qvel)

    def _friction_scale(self, qvel: np.ndarray) -> np.ndarray:
        """Share of each block's velocity that dry friction leaves, [B, 24]."""
        slide = qvel[:, :BLOCK_DOFS].reshape(-1, NUM_BLOCKS, 3)
        speed = np.sqrt(np.einsum("bki,bki,i->bk", slide, slide, _SPEED_WEIGHTS))
        left = np.maximum(0.0, 1.0 - self._slowdown / np.maximum(speed, 1e-9))
        return np.repeat(left, 3, axis=-1)
