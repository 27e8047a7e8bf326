"""The board on the C engine, with the table's friction after every physics step.

MuJoCo steps every world once, then numpy applies the friction to all of them in one
operation, ten times per control step.
"""

import numpy as np
from mujoco import batch

from swm_jax.envs.mujoco_engine import MujocoEngine
from swm_jax.envs.scene import Scene
from swm_jax.worlds.board.env import BoardEnv, State
from swm_jax.worlds.board.model import BLOCK_DOFS, FRICTION_RADIUS, NUM_BLOCKS

_SPEED_WEIGHTS = np.array([1.0, 1.0, FRICTION_RADIUS**2])


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
