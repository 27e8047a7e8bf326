"""MuJoCo's C engine: all worlds of a batch on a pool of threads.

Arrays are numpy; JAX arrays are accepted. No Python runs per world. Positions are
rounded to float32 and the solver starts cold at every control step, so that a rollout
equals its single steps bit for bit, independently of earlier simulations.
"""

import threading
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from jaxtyping import Float
from mujoco import batch

from swm_jax.arrays import Array
from swm_jax.envs.env import MjcfEnv, Scene, State


class MujocoEngine(MjcfEnv[State, Scene]):
    """Engine that integrates a world in C; thread-safe, calls run one at a time."""

    backend = "mujoco"
    traceable = False

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self._model = self.physics_model()
        self._lock = threading.Lock()
        self._pool = None

    def native(self, state: State) -> State:
        return jax.tree.map(np.asarray, state)

    def step(self, state: State, action: Float[Array, " A"]) -> State:
        states = jax.tree.map(lambda x: np.asarray(x)[None], state)
        action = self.check_actions(action, ())
        return jax.tree.map(lambda x: x[0], self.step_batch(states, action[None]))

    def step_batch(self, states: State, actions: Float[Array, "B A"]) -> State:
        states = self.native(states)
        actions = self.check_actions(actions, states.qpos.shape[:-1])
        return self._play(states, actions[:, None])

    def rollout_batch(self, states: State, actions: Float[Array, "B H A"]) -> Scene:
        states = self.native(states)
        worlds, horizon = len(states.qpos), np.shape(actions)[-2]
        actions = self.check_actions(actions, (worlds, horizon))
        path = np.empty((worlds, horizon + 1, states.qpos.shape[-1]), np.float32)
        path[:, 0] = states.qpos

        def record(t, qpos):
            path[:, t + 1] = qpos

        self._play(states, actions, record)
        block_id = np.repeat(states.block_id[:, None], horizon + 1, axis=1)
        return self.scene(states.replace(qpos=path, block_id=block_id))

    def _play(
        self,
        states: State,
        actions: np.ndarray,
        record: Callable[[int, np.ndarray], None] = lambda t, qpos: None,
    ) -> State:
        """Simulates [B, H, A] actions; calls `record(t, qpos)` after each control step.

        Returns:
          The final states.
        """
        worlds = len(actions)
        with self._lock:
            pool = self._worlds(worlds)
            ids = None if pool.nsim == worlds else np.arange(worlds, dtype=np.int32)
            qpos, qvel, ctrl, warm = (
                pool.bind(name)[:worlds]
                for name in ("qpos", "qvel", "ctrl", "qacc_warmstart")
            )
            qpos[:], qvel[:] = states.qpos, states.qvel
            for t in range(actions.shape[1]):
                states, ctrl[:] = self.command(states, actions[:, t])
                warm[:] = 0.0
                self._physics(pool, ids, qvel)
                states = states.replace(
                    qpos=qpos.astype(np.float32),
                    qvel=qvel.astype(np.float32),
                    step=states.step + np.int32(1),
                )
                qpos[:], qvel[:] = states.qpos, states.qvel
                record(t, states.qpos)
        return states

    def _physics(
        self, pool: batch.Batch, ids: np.ndarray | None, qvel: np.ndarray
    ) -> None:
        """Runs the physics steps of one control step in the worlds `ids`.

        Args:
          pool: the worlds.
          ids: numbers of the worlds to step; None for all.
          qvel: float64[B, v], their velocities, a writable view.
        """
        pool.step(ids, nstep=self.physics_steps)

    def _worlds(self, count: int) -> batch.Batch:
        """Batch with room for `count` worlds; it grows by doubling."""
        if self._pool is None or self._pool.nsim < count:
            room = 1 << (count - 1).bit_length()
            self._pool = batch.Batch(self._model, room, self.config.threads)
        return self._pool
