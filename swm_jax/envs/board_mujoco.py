"""The board on MuJoCo's C engine: all worlds of a batch on a pool of threads.

`mujoco.batch` steps every world once, then numpy applies the table's friction to
all of them in one operation, ten times per control step. No Python runs per world.
Numpy in and out; JAX arrays are accepted. Positions are rounded to float32 after
every control step, so that a rollout equals its steps bit for bit.
"""

import threading
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Key
from mujoco import batch

from swm_jax.envs import board_geometry as geometry
from swm_jax.envs.board import (
    BoardEnv,
    State,
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


class MujocoBoard(BoardEnv):
    """C engine backend; safe to call from several threads, one call at a time."""

    backend = "mujoco"

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self._model = board_model(
            physics_dt=config.physics_dt, iterations=config.iterations, visuals=False
        )
        self._slowdown = config.friction * GRAVITY * config.physics_dt
        self._lock = threading.Lock()
        self._pool = None

    def native(self, state: State) -> State:
        return jax.tree.map(np.asarray, state)

    def reset(self, key: Key[Array, ""]) -> State:
        return self.native(place(key, self.block_ids))

    def reset_batch(self, keys: Key[Array, " B"]) -> State:
        return self.native(place_batch(keys, self.block_ids))

    def step(self, state: State, action: Float[Array, "2"]) -> State:
        states = jax.tree.map(lambda x: np.asarray(x)[None], state)
        action = check_actions(action, ())
        return jax.tree.map(lambda x: x[0], self.step_batch(states, action[None]))

    def step_batch(self, states: State, actions: Float[Array, "B 2"]) -> State:
        states = self.native(states)
        actions = check_actions(actions, states.target.shape[:-1])
        qpos, qvel, target = self._play(states, actions[:, None])
        return states.replace(
            qpos=qpos, qvel=qvel, target=target, step=states.step + np.int32(1)
        )

    def rollout_batch(self, states: State, actions: Float[Array, "B H 2"]) -> Scene:
        states = self.native(states)
        worlds, horizon = len(states.target), np.shape(actions)[-2]
        actions = check_actions(actions, (worlds, horizon))
        path = np.empty((worlds, horizon + 1, states.qpos.shape[-1]), np.float32)
        path[:, 0] = states.qpos
        self._play(
            states, actions, lambda t, qpos: path[:, t + 1].__setitem__(..., qpos)
        )
        block_id = np.broadcast_to(
            states.block_id[:, None], (worlds, horizon + 1, NUM_BLOCKS)
        )
        return Scene(
            block_pose=path[..., :BLOCK_DOFS].reshape(
                worlds, horizon + 1, NUM_BLOCKS, 3
            ),
            block_id=np.ascontiguousarray(block_id),
            peg=np.ascontiguousarray(path[..., BLOCK_DOFS:]),
        )

    def _play(
        self,
        states: State,
        actions: np.ndarray,
        record: Callable[[int, np.ndarray], None] = lambda t, qpos: None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Plays [B, H, 2] actions; calls `record(t, qpos)` after every control step.

        Returns:
          The final qpos, qvel and target as float32.
        """
        worlds = len(actions)
        actions = np.clip(actions, -self.action_limit, self.action_limit)
        target = np.array(states.target, np.float32)
        with self._lock:
            pool = self._worlds(worlds)
            ids = None if pool.nsim == worlds else np.arange(worlds, dtype=np.int32)
            qpos, qvel, ctrl = (
                pool.bind(name)[:worlds] for name in ("qpos", "qvel", "ctrl")
            )
            qpos[:], qvel[:] = states.qpos, states.qvel
            for t in range(actions.shape[1]):
                target = np.clip(target + actions[:, t], _LOW, _HIGH)
                ctrl[:] = target
                for _ in range(self.physics_steps):
                    pool.step(ids)
                    qvel[:, :BLOCK_DOFS] *= self._friction_scale(qvel)
                qpos[:] = qpos.astype(np.float32)
                qvel[:] = qvel.astype(np.float32)
                record(t, qpos)
            return qpos.astype(np.float32), qvel.astype(np.float32), target

    def _friction_scale(self, qvel: np.ndarray) -> np.ndarray:
        """Share of each block's velocity that dry friction leaves, [B, 24]."""
        slide = qvel[:, :BLOCK_DOFS].reshape(-1, NUM_BLOCKS, 3)
        speed = np.sqrt(np.einsum("bki,bki,i->bk", slide, slide, _SPEED_WEIGHTS))
        left = np.maximum(0.0, 1.0 - self._slowdown / np.maximum(speed, 1e-9))
        return np.repeat(left, 3, axis=-1)

    def _worlds(self, count: int) -> batch.Batch:
        """A batch with room for that many worlds; it grows by doubling."""
        if self._pool is None or self._pool.nsim < count:
            room = 1 << (count - 1).bit_length()
            self._pool = batch.Batch(self._model, room, self.config.threads)
        return self._pool


_SPEED_WEIGHTS = np.array([1.0, 1.0, FRICTION_RADIUS**2])
