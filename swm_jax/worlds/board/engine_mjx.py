"""The board in MJX, with the table's friction after every physics step."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from swm_jax.envs.mjx_engine import MjxEngine
from swm_jax.envs.scene import Scene
from swm_jax.worlds.board.env import BoardEnv, State
from swm_jax.worlds.board.model import BLOCK_DOFS, FRICTION_RADIUS, NUM_BLOCKS


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
