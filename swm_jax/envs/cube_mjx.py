"""The cube arm in MJX: physics as a JAX program, for accelerators.

`step` is pure: jit it, vmap it, scan it; `rollout_batch` is one scan. Both engines
integrate the same model but for its friction cones (`cube_model`); they part where
contacts are many or hard, since MJX works in float32 and solves for the deepest only.

The values of actions are checked only where they are known, that is outside of
jit; their shape is checked always.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Key
from mujoco import mjx

from swm_jax.envs.cube import (
    CubeEnv,
    CubeState,
    check_action_shape,
    check_actions,
    place,
    place_batch,
    servo_targets,
)
from swm_jax.envs.cube_model import cube_model
from swm_jax.envs.scene import CubeScene


class MjxCube(CubeEnv):
    """MJX backend; every method may be traced."""

    backend = "mjx"

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        model = cube_model(
            cubes=config.cubes,
            physics_dt=config.physics_dt,
            iterations=config.iterations,
            visuals=False,
            cone="pyramidal",
        )
        self._model = mjx.put_model(model)
        self._blank = mjx.make_data(model)

    def reset(self, key: Key[Array, ""]) -> CubeState:
        return place(key, self.block_ids)

    def reset_batch(self, keys: Key[Array, " B"]) -> CubeState:
        return place_batch(keys, self.block_ids)

    def step(self, state: CubeState, action: Float[Array, "5"]) -> CubeState:
        return self._step(state, _checked(action, ()))

    def step_batch(self, states: CubeState, actions: Float[Array, "B 5"]) -> CubeState:
        return self._step_batch(states, _checked(actions, states.qpos.shape[:-1]))

    def rollout_batch(
        self, states: CubeState, actions: Float[Array, "B H 5"]
    ) -> CubeScene:
        actions = _checked(actions, (len(states.qpos), jnp.shape(actions)[-2]))
        return self._rollout_batch(states, actions)

    @functools.partial(jax.jit, static_argnums=0)
    def _step(self, state, action):
        ctrl = servo_targets(state.qpos, action)
        blank = self._blank.replace(ctrl=ctrl)

        def substep(_, carry):
            qpos, qvel, warm = carry
            data = blank.replace(qpos=qpos, qvel=qvel, qacc_warmstart=warm)
            data = mjx.step(self._model, data)
            return data.qpos, data.qvel, data.qacc_warmstart

        start = (state.qpos, state.qvel, jnp.zeros_like(state.qvel))
        qpos, qvel, _ = jax.lax.fori_loop(0, self.physics_steps, substep, start)
        return state.replace(qpos=qpos, qvel=qvel, step=state.step + 1)

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


def _checked(actions, lead):
    if isinstance(actions, jax.core.Tracer):
        check_action_shape(actions, lead)
        return actions.astype(jnp.float32)
    return jnp.asarray(check_actions(actions, lead))
