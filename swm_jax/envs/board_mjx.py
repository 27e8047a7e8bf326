"""The board in MJX: physics as a JAX program, for accelerators.

`step` is pure: jit it, vmap it, scan it; `rollout_batch` is one scan. The C engine
is many times faster on a CPU (`board_mujoco`). Both integrate the same model with
the same friction rule and agree as long as contacts are not chaotic.

The values of actions are checked only where they are known, that is outside of
jit; their shape is checked always.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Key
from mujoco import mjx

from swm_jax.envs import board_geometry as geometry
from swm_jax.envs.board import (
    BoardEnv,
    State,
    check_action_shape,
    check_actions,
    place,
    place_batch,
)
from swm_jax.envs.board_model import (
    BLOCK_DOFS,
    FRICTION_RADIUS,
    GRAVITY,
    NUM_BLOCKS,
    board_model,
)
from swm_jax.envs.scene import Scene

_LOW = np.array([geometry.X_BOUNDS[0], geometry.Y_BOUNDS[0]], np.float32)
_HIGH = np.array([geometry.X_BOUNDS[1], geometry.Y_BOUNDS[1]], np.float32)


class MjxBoard(BoardEnv):
    """MJX backend; every method may be traced."""

    backend = "mjx"

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        model = board_model(
            physics_dt=config.physics_dt, iterations=config.iterations, visuals=False
        )
        self._model = mjx.put_model(model)
        self._blank = mjx.make_data(model)
        self._slowdown = config.friction * GRAVITY * config.physics_dt

    def reset(self, key: Key[Array, ""]) -> State:
        return place(key, self.block_ids)

    def reset_batch(self, keys: Key[Array, " B"]) -> State:
        return place_batch(keys, self.block_ids)

    def step(self, state: State, action: Float[Array, "2"]) -> State:
        return self._step(state, _checked(action, ()))

    def step_batch(self, states: State, actions: Float[Array, "B 2"]) -> State:
        actions = _checked(actions, states.target.shape[:-1])
        return self._step_batch(states, actions)

    def rollout_batch(self, states: State, actions: Float[Array, "B H 2"]) -> Scene:
        actions = _checked(actions, (len(states.target), jnp.shape(actions)[-2]))
        return self._rollout_batch(states, actions)

    @functools.partial(jax.jit, static_argnums=0)
    def _step(self, state, action):
        action = jnp.clip(action, -self.action_limit, self.action_limit)
        target = jnp.clip(state.target + action, _LOW, _HIGH)

        def substep(_, carry):
            qpos, qvel = carry
            data = self._blank.replace(qpos=qpos, qvel=qvel, ctrl=target)
            data = mjx.step(self._model, data)
            return data.qpos, self._rub(data.qvel)

        start = (state.qpos, state.qvel)
        qpos, qvel = jax.lax.fori_loop(0, self.physics_steps, substep, start)
        return state.replace(qpos=qpos, qvel=qvel, target=target, step=state.step + 1)

    @functools.partial(jax.jit, static_argnums=0)
    def _step_batch(self, states, actions):
        return jax.vmap(self._step)(states, actions)

    @functools.partial(jax.jit, static_argnums=0)
    def _rollout_batch(self, states, actions):
        def advance(states, action):
            after = jax.vmap(self._step)(states, action)
            return after, self.scene(after)

        _, path = jax.lax.scan(advance, states, jnp.swapaxes(actions, 0, 1))
        join = lambda now, later: jnp.concatenate([now[None], later]).swapaxes(0, 1)
        return jax.tree.map(join, self.scene(states), path)

    def _rub(self, qvel: Float[Array, "26"]) -> Float[Array, "26"]:
        """What the table's dry friction leaves of the velocities."""
        slide = qvel[:BLOCK_DOFS].reshape(NUM_BLOCKS, 3)
        weights = jnp.array([1.0, 1.0, FRICTION_RADIUS**2])
        speed = jnp.sqrt(
            jnp.maximum((slide**2 * weights).sum(-1, keepdims=True), 1e-18)
        )
        slide = slide * jnp.maximum(0.0, 1.0 - self._slowdown / speed)
        return jnp.concatenate([slide.reshape(-1), qvel[BLOCK_DOFS:]])


def _checked(actions, lead):
    if isinstance(actions, jax.core.Tracer):
        check_action_shape(actions, lead)
        return actions.astype(jnp.float32)
    return jnp.asarray(check_actions(actions, lead))
