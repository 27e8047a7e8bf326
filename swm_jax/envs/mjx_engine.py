"""MJX engine: physics as a JAX program, for accelerators.

`step` is pure: jit, vmap and scan apply; `rollout_batch` is one scan. On a CPU the C
engine is many times faster (`mujoco_engine`). Both integrate the same model and agree
up to chaotic contacts: MJX computes in float32 and solves the deepest contacts only.

Shapes of actions are always checked, their values only outside of jit.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
from jax.core import Tracer
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.envs.env import MjcfEnv, Scene, State


class MjxEngine(MjcfEnv[State, Scene]):
    """Engine that integrates a world in MJX; all methods are traceable."""

    backend = "mjx"
    traceable = True

    def __init__(self, config: ml_collections.ConfigDict):
        from mujoco import mjx  # late: takes seconds to import

        super().__init__(config)
        model = self.physics_model()
        self._advance = functools.partial(mjx.step, mjx.put_model(model))
        self._blank = mjx.make_data(model)

    def native(self, state: State) -> State:
        return state

    def step(self, state: State, action: Float[Array, " A"]) -> State:
        return self._step(state, self._checked(action, ()))

    def step_batch(self, states: State, actions: Float[Array, "B A"]) -> State:
        return self._step_batch(states, self._checked(actions, states.qpos.shape[:-1]))

    def rollout_batch(self, states: State, actions: Float[Array, "B H A"]) -> Scene:
        lead = (len(states.qpos), jnp.shape(actions)[-2])
        return self._rollout_batch(states, self._checked(actions, lead))

    def _after_physics_step(self, qvel: Float[Array, " v"]) -> Float[Array, " v"]:
        """Hook on the velocities of one world after each physics step."""
        return qvel

    @functools.partial(jax.jit, static_argnums=0)
    def _step(self, state, action):
        state, ctrl = self.command(state, action)
        blank = self._blank.replace(ctrl=ctrl)

        def physics_step(_, carry):
            qpos, qvel, warm = carry
            data = blank.replace(qpos=qpos, qvel=qvel, qacc_warmstart=warm)
            data = self._advance(data)
            return data.qpos, self._after_physics_step(data.qvel), data.qacc_warmstart

        # Warm-start the solver within a control step only, so that the result depends
        # on the state alone.
        start = (state.qpos, state.qvel, jnp.zeros_like(state.qvel))
        qpos, qvel, _ = jax.lax.fori_loop(0, self.physics_steps, physics_step, start)
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

    def _checked(self, actions, lead):
        if isinstance(actions, Tracer):
            self.check_action_shape(actions, lead)
            return actions.astype(jnp.float32)
        return jnp.asarray(self.check_actions(actions, lead))
