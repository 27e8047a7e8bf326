"""Worlds in which something pushes blocks about a table, on both engines.

Blocks move on planar joints (x, y, yaw), which come first in `qpos` and `qvel`. The
table's friction is a projection of the velocities after each physics step: it scales a
block's (vx, vy, c w) by max(0, 1 - mu g dt / norm), which couples sliding and spinning
as dry friction does and adds no row to the contact solver. MJX applies it to one world
at a time inside its own program; the C engine steps every world once and numpy then
applies it to all of them in one operation.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from mujoco import batch

from swm_jax.arrays import Array
from swm_jax.envs.env import Scene, State
from swm_jax.envs.mjx_engine import MjxEngine
from swm_jax.envs.mujoco_engine import MujocoEngine

GRAVITY = 9.81


class MjxPushing(MjxEngine[State, Scene]):
    """MJX with the table's friction.

    Attributes:
      num_blocks: K, how many blocks there are.
      friction_radius: c, metres; weighs spin against slide.
      slowdown: mu g dt, metres per second that friction takes in a physics step.
    """

    num_blocks: int
    friction_radius: float
    slowdown: float

    def _after_physics_step(self, qvel: Float[Array, " v"]) -> Float[Array, " v"]:
        """What the table's dry friction leaves of the velocities."""
        count = 3 * self.num_blocks
        slide = qvel[:count].reshape(self.num_blocks, 3)
        weights = jnp.array([1.0, 1.0, self.friction_radius**2])
        speed = jnp.sqrt(
            jnp.maximum((slide**2 * weights).sum(-1, keepdims=True), 1e-18)
        )
        slide = slide * jnp.maximum(0.0, 1.0 - self.slowdown / speed)
        return jnp.concatenate([slide.reshape(-1), qvel[count:]])


class MujocoPushing(MujocoEngine[State, Scene]):
    """The C engine with the table's friction; attributes as of `MjxPushing`."""

    num_blocks: int
    friction_radius: float
    slowdown: float

    def _physics(
        self, pool: batch.Batch, ids: np.ndarray | None, qvel: np.ndarray
    ) -> None:
        for _ in range(self.physics_steps):
            pool.step(ids)
            qvel[:, : 3 * self.num_blocks] *= self._friction_scale(qvel)

    def _friction_scale(self, qvel: np.ndarray) -> np.ndarray:
        """Share of each block's velocity that dry friction leaves, [B, 3 K]."""
        slide = qvel[:, : 3 * self.num_blocks].reshape(-1, self.num_blocks, 3)
        weights = np.array([1.0, 1.0, self.friction_radius**2])
        speed = np.sqrt(np.einsum("bki,bki,i->bk", slide, slide, weights))
        left = np.maximum(0.0, 1.0 - self.slowdown / np.maximum(speed, 1e-9))
        return np.repeat(left, 3, axis=-1)


def servo_gains(physics_dt: float, steps: int, coverage: float) -> tuple[float, float]:
    """Gains per unit of mass of a position servo, critically damped in discrete time.

    With a double pole p the distance left after n steps from rest is
    (1 + n (1 - p)) p^n; p is solved for.

    Args:
      physics_dt: seconds.
      steps: physics steps per control step.
      coverage: share of a step that is covered within one control step.

    Returns:
      Stiffness in 1/s^2 and damping in 1/s.
    """
    low, high, pole = 0.0, 1.0, 0.5
    for _ in range(60):
        pole = 0.5 * (low + high)
        left = (1.0 + steps * (1.0 - pole)) * pole**steps
        low, high = (pole, high) if left < 1.0 - coverage else (low, pole)
    return ((1.0 - pole) / physics_dt) ** 2, (1.0 - pole**2) / physics_dt
