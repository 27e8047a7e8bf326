"""The cube arm on MuJoCo's C engine: all worlds of a batch on a pool of threads.

Numpy in and out; JAX arrays are accepted. Positions are rounded to float32 and the
solver starts cold at every control step, so that a rollout equals its steps bit for
bit, whatever the worlds simulated before.
"""

import threading
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Key
from mujoco import batch

from swm_jax.envs.cube import (
    CubeEnv,
    CubeState,
    check_actions,
    place,
    place_batch,
    scene_of,
    servo_targets,
)
from swm_jax.envs.cube_model import cube_model
from swm_jax.envs.scene import CubeScene


class MujocoCube(CubeEnv):
    """C engine backend; safe to call from several threads, one call at a time."""

    backend = "mujoco"

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self._model = cube_model(
            cubes=config.cubes,
            physics_dt=config.physics_dt,
            iterations=config.iterations,
            visuals=False,
        )
        self._lock = threading.Lock()
        self._pool = None

    def native(self, state: CubeState) -> CubeState:
        return jax.tree.map(np.asarray, state)

    def reset(self, key: Key[Array, ""]) -> CubeState:
        return self.native(place(key, self.block_ids))

    def reset_batch(self, keys: Key[Array, " B"]) -> CubeState:
        return self.native(place_batch(keys, self.block_ids))

    def step(self, state: CubeState, action: Float[Array, "5"]) -> CubeState:
        states = jax.tree.map(lambda x: np.asarray(x)[None], state)
        action = check_actions(action, ())
        return jax.tree.map(lambda x: x[0], self.step_batch(states, action[None]))

    def step_batch(self, states: CubeState, actions: Float[Array, "B 5"]) -> CubeState:
        states = self.native(states)
        actions = check_actions(actions, states.qpos.shape[:-1])
        qpos, qvel = self._play(states, actions[:, None])
        return states.replace(qpos=qpos, qvel=qvel, step=states.step + np.int32(1))

    def rollout_batch(
        self, states: CubeState, actions: Float[Array, "B H 5"]
    ) -> CubeScene:
        states = self.native(states)
        worlds, horizon = len(states.qpos), np.shape(actions)[-2]
        actions = check_actions(actions, (worlds, horizon))
        path = np.empty((worlds, horizon + 1, states.qpos.shape[-1]), np.float32)
        path[:, 0] = states.qpos
        self._play(
            states, actions, lambda t, qpos: path[:, t + 1].__setitem__(..., qpos)
        )
        ids = states.block_id
        shape = (worlds, horizon + 1, ids.shape[-1])
        return scene_of(
            path, np.ascontiguousarray(np.broadcast_to(ids[:, None], shape))
        )

    def _play(
        self,
        states: CubeState,
        actions: np.ndarray,
        record: Callable[[int, np.ndarray], None] = lambda t, qpos: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Plays [B, H, 5] actions; calls `record(t, qpos)` after every control step.

        Returns:
          The final qpos and qvel as float32.
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
                ctrl[:] = servo_targets(qpos.astype(np.float32), actions[:, t])
                warm[:] = 0.0
                pool.step(ids, nstep=self.physics_steps)
                qpos[:] = qpos.astype(np.float32)
                qvel[:] = qvel.astype(np.float32)
                record(t, qpos)
            return qpos.astype(np.float32), qvel.astype(np.float32)

    def _worlds(self, count: int) -> batch.Batch:
        """A batch with room for that many worlds; it grows by doubling."""
        if self._pool is None or self._pool.nsim < count:
            room = 1 << (count - 1).bit_length()
            self._pool = batch.Batch(self._model, room, self.config.threads)
        return self._pool
