"""The board's tasks as Gymnasium environments, single and vectorised.

Importing this module registers `swm_jax/BoardReach-v0`, `swm_jax/BoardSeparate-v0`
and `swm_jax/BoardBlockToBlock-v0`; Gymnasium imports it by itself when asked for
`gymnasium.make("swm_jax.worlds.gymnasium_envs:swm_jax/BoardReach-v0")`.

Observation: `image` uint8[h, w, 3] (left out when `image_size` is None),
`block_pose` float32[8, 3] (x, y in metres, yaw in -pi..pi), `block_id` int64[8] and
`goal_blocks` int64[n] (indices into `BLOCK_NAMES`; the blocks the task is about),
`peg` float32[2]. Action: float32[2], the peg's displacement in metres. Reward: 1 on
the step that wins, which ends the episode, else 0. A reset with a seed is the
benchmark's episode of that seed.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from swm_jax.envs.scene import BLOCK_NAMES
from swm_jax.worlds.board import geometry as geometry
from swm_jax.worlds.board.looks import get_look
from swm_jax.worlds.board.model import NUM_BLOCKS
from swm_jax.worlds.board.render import render
from swm_jax.worlds.board.scene import Scene
from swm_jax.worlds.board.tasks import Task, make_task, task_success
from swm_jax.worlds.registry import load_env

_IDS = {
    "reach": "swm_jax/BoardReach-v0",
    "separate": "swm_jax/BoardSeparate-v0",
    "block_to_block": "swm_jax/BoardBlockToBlock-v0",
}
_SEEDS = 2**31 - 1


class BoardGymEnv(gymnasium.Env):
    """One board with one task.

    Args:
      task: "reach", "separate" or "block_to_block".
      pair, target: which blocks, see `make_task`; the seed decides if None.
      image_size: height and width of the picture, or None for poses only.
      render_mode: None or "rgb_array".
      backend: of `swm_jax.worlds.load_env`.
      **config: settings of the board env.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        task: str = "block_to_block",
        pair: int | Sequence[str] | None = None,
        target: int | str | None = None,
        image_size: tuple[int, int] | None = (180, 320),
        render_mode: str | None = None,
        backend: str | None = None,
        **config,
    ):
        self._desk = _Desk(task, pair, target, image_size, backend, config)
        self.observation_space = self._desk.observation_space
        self.action_space = self._desk.action_space
        self.render_mode = render_mode
        self._state = self._task = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        seed = int(self.np_random.integers(_SEEDS)) if seed is None else seed
        self._task, self._state = self._desk.start(seed)
        return self._observe(), self._info(False)

    def step(self, action):
        env = self._desk.env
        self._state = env.step(self._state, action)
        success = bool(self._task.success(env.scene(self._state)))
        truncated = not success and int(self._state.step) >= self._desk.max_steps
        info = self._info(success)
        return self._observe(), float(success), success, truncated, info

    def render(self):
        if self.render_mode is None:
            return None
        scene = _stack([self._desk.env.scene(self._state)])
        return self._desk.picture(scene, self._desk.image_size or (180, 320))[0]

    def _observe(self):
        scene = _stack([self._desk.env.scene(self._state)])
        batch = self._desk.observe(scene, [self._task])
        return {name: value[0] for name, value in batch.items()}

    def _info(self, success):
        return {"success": success, "task": self._task.task}


class BoardVectorEnv(VectorEnv):
    """Many boards stepped together, each with its own start; resets on next step.

    Args:
      num_envs: how many.
      **kwargs: as for `BoardGymEnv`.
    """

    metadata = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        task: str = "block_to_block",
        pair: int | Sequence[str] | None = None,
        target: int | str | None = None,
        image_size: tuple[int, int] | None = (180, 320),
        render_mode: str | None = None,
        backend: str | None = None,
        **config,
    ):
        self._desk = _Desk(task, pair, target, image_size, backend, config)
        self.num_envs = num_envs
        self.single_observation_space = self._desk.observation_space
        self.single_action_space = self._desk.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = render_mode
        self._tasks: list[Task] = []
        self._states: Any = None
        self._over = np.zeros(num_envs, bool)

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options=None):
        if isinstance(seed, int):
            super().reset(seed=seed)
            seed = [seed + i for i in range(self.num_envs)]
        seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"seed has {len(seeds)} entries, expected {self.num_envs}, one per env"
            )
        starts = [self._desk.start(self._seed(each)) for each in seeds]
        self._tasks = [task for task, _ in starts]
        self._states = _stack([state for _, state in starts])
        self._over = np.zeros(self.num_envs, bool)
        return self._observe(), self._infos(np.zeros(self.num_envs, bool))

    def step(self, actions):
        env, fresh = self._desk.env, self._over
        states = jax.tree.map(np.array, env.step_batch(self._states, actions))
        for i in np.flatnonzero(fresh):
            self._tasks[i], start = self._desk.start(self._seed(None))
            for whole, one in zip(jax.tree.leaves(states), jax.tree.leaves(start)):
                whole[i] = one
        self._states = states
        scene = env.scene(states)
        slots = np.array([task.slots for task in self._tasks])
        success = np.asarray(task_success(self._tasks[0].name, scene, slots))
        success = success & ~fresh
        truncated = ~success & (states.step >= self._desk.max_steps)
        self._over = success | truncated
        reward = success.astype(np.float64)
        return self._observe(), reward, success, truncated, self._infos(success)

    def render(self):
        if self.render_mode is None:
            return None
        scene = self._desk.env.scene(self._states)
        return tuple(self._desk.picture(scene, self._desk.image_size or (180, 320)))

    def _seed(self, seed):
        return int(self.np_random.integers(_SEEDS)) if seed is None else int(seed)

    def _observe(self):
        return self._desk.observe(self._desk.env.scene(self._states), self._tasks)

    def _infos(self, success):
        known = np.ones(self.num_envs, bool)
        names = np.array([task.task for task in self._tasks], object)
        return {
            "success": success,
            "_success": known,
            "task": names,
            "_task": known.copy(),
        }


class _Desk:
    """What the single and the vectorised env share."""

    def __init__(self, task, pair, target, image_size, backend, config):
        self.env = load_env("board", backend, **config)
        self._make = lambda seed: make_task(
            task, pair, target, seed=seed, block_set=self.env.config.block_set
        )
        example = self._make(0)
        self.max_steps = min(example.max_steps, self.env.config.episode_length)
        self.image_size = image_size
        self._look = get_look(self.env.config.look)
        limit = np.float32(self.env.action_limit)
        self.action_space = spaces.Box(-limit, limit, (2,), np.float32)
        slack = 0.03  # metres a hard push may squeeze things past the walls
        low = np.array([geometry.X_BOUNDS[0], geometry.Y_BOUNDS[0]]) - slack
        high = np.array([geometry.X_BOUNDS[1], geometry.Y_BOUNDS[1]]) + slack
        pose = lambda corner, turn: np.tile(
            np.array([*corner, turn], np.float32), (NUM_BLOCKS, 1)
        )
        parts = {
            "block_pose": spaces.Box(pose(low, -np.pi), pose(high, np.pi)),
            "block_id": spaces.MultiDiscrete([len(BLOCK_NAMES)] * NUM_BLOCKS),
            "goal_blocks": spaces.MultiDiscrete(
                [len(BLOCK_NAMES)] * len(example.names)
            ),
            "peg": spaces.Box(low.astype(np.float32), high.astype(np.float32)),
        }
        if image_size is not None:
            parts["image"] = spaces.Box(0, 255, (*image_size, 3), np.uint8)
        self.observation_space = spaces.Dict(parts)

    def start(self, seed: int):
        task = self._make(seed)
        state = task.reset(self.env, jax.random.key(seed))
        return task, jax.tree.map(np.asarray, state)

    def observe(self, scene: Scene, tasks: list[Task]) -> dict[str, np.ndarray]:
        """Observations of scenes with one leading axis."""
        scene = jax.tree.map(np.asarray, scene)
        pose = scene.block_pose.copy()
        pose[..., 2] = np.arctan2(np.sin(pose[..., 2]), np.cos(pose[..., 2]))
        goal = [[BLOCK_NAMES.index(name) for name in task.names] for task in tasks]
        observation = {
            "block_pose": pose,
            "block_id": scene.block_id.astype(np.int64),
            "goal_blocks": np.array(goal, np.int64),
            "peg": scene.peg.copy(),
        }
        if self.image_size is not None:
            observation["image"] = self.picture(scene, self.image_size)
        return observation

    def picture(self, scene: Scene, size: tuple[int, int]) -> np.ndarray:
        """uint8[B, height, width, 3]."""
        return np.asarray(render(scene, *size, look=self._look))


def _stack(trees):
    return jax.tree.map(lambda *x: np.stack([np.asarray(each) for each in x]), *trees)


def _register():
    for task, name in _IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="swm_jax.worlds.gymnasium_envs:BoardGymEnv",
                vector_entry_point="swm_jax.worlds.gymnasium_envs:BoardVectorEnv",
                kwargs={"task": task},
            )


_register()
