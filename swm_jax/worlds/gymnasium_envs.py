"""Tasks of every world as Gymnasium environments, single and vectorised.

Importing this module registers an id per world and task, such as
`swm_jax/BoardBlockToBlock-v0` and `swm_jax/CubeStack-v0`; Gymnasium imports it
automatically when the id names the module:

    gymnasium.make("swm_jax.worlds.gymnasium_envs:swm_jax/BoardReach-v0")

Observation: `image` uint8[h, w, 3] (left out when `image_size` is None), the arrays of
the world's scene (positions in metres, angles in -pi..pi, `block_id` as int64), and
`goal_blocks` int64[n] (ids of the task's blocks; like `block_id` they index the object
names of the world's language).
Action: float32[A], as defined by the world. Reward: 1 on the step of success, which
ends the episode, else 0. A reset with a seed is the benchmark's episode of that seed,
and the episodes that follow it are a function of the seed too.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from swm_jax import prng, worlds
from swm_jax.envs import AnyScene
from swm_jax.envs.package_env import stack
from swm_jax.worlds.forked import check_not_forked
from swm_jax.worlds.world import Task

_SEEDS = 2**31 - 1


class WorldGymEnv(gymnasium.Env):
    """One env of a world with one task.

    Args:
      world: name of a world.
      task: one of the world's; None for the first.
      which: objects of the task, as keywords of the world's `make_task`; those not
        given are drawn from the seed.
      image_size: height and width of the picture, one number for a square, or None for
        poses only.
      render_mode: None or "rgb_array".
      backend: of `swm_jax.worlds.load_env`.
      **config: settings of the env.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        world: str = worlds.DEFAULT,
        task: str | None = None,
        which: Mapping[str, Any] | None = None,
        image_size: int | tuple[int, int] | None = (180, 320),
        render_mode: str | None = None,
        backend: str | None = None,
        **config,
    ):
        self._desk = _Desk(world, task, which, image_size, backend, **config)
        self.observation_space = self._desk.observation_space
        self.action_space = self._desk.action_space
        self.render_mode = render_mode
        self._state: Any = None  # before the first reset
        self._task: Any = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self._task, self._state = self._desk.start(_drawn(seed, self.np_random))
        return self._observe(), self._info(False)

    def step(self, action):
        _check_reset(self._state, "step")
        env = self._desk.env
        self._state = env.step(self._state, action)
        success = bool(self._task.success(env.scene(self._state)))
        truncated = not success and int(self._state.step) >= self._desk.max_steps
        info = self._info(success)
        return self._observe(), float(success), success, truncated, info

    def render(self):
        if self.render_mode is None:
            return None
        _check_reset(self._state, "render")
        return self._desk.picture(stack([self._state]))[0]

    def _observe(self):
        batch = self._desk.observe(stack([self._state]), [self._task])
        return {name: value[0] for name, value in batch.items()}

    def _info(self, success):
        return {"success": success, "task": self._task.task}


class WorldVectorEnv(VectorEnv):
    """Batched envs with separate starts and autoreset on the next step.

    Every env has a generator of its own, so that env i plays the episodes that a
    `WorldGymEnv` plays which is reset with the i-th seed.

    Args:
      num_envs: number of envs.
      **kwargs: as for `WorldGymEnv`.
    """

    metadata = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        world: str = worlds.DEFAULT,
        task: str | None = None,
        render_mode: str | None = None,
        **desk,
    ):
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, expected 1 or more")
        self._desk = _Desk(world, task, **desk)
        self.num_envs = num_envs
        self._generators = [np_random() for _ in range(num_envs)]
        self.single_observation_space = self._desk.observation_space
        self.single_action_space = self._desk.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = render_mode
        self._tasks: list[Task] = []
        self._states: Any = None
        self._over = np.zeros(num_envs, bool)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The generator of every env."""
        return tuple(generator for generator, _ in self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The seed of every env's generator."""
        return tuple(seed for _, seed in self._generators)

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options=None):
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + i for i in range(self.num_envs)]
        seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"seed has {len(seeds)} entries, expected {self.num_envs}, one per env"
            )
        for i, each in enumerate(seeds):
            if each is not None:
                self._generators[i] = np_random(int(each))
        drawn = map(_drawn, seeds, self.np_random)
        starts = [self._desk.start(each) for each in drawn]
        self._tasks = [task for task, _ in starts]
        self._states = stack([state for _, state in starts])
        self._over = np.zeros(self.num_envs, bool)
        return self._observe(), self._infos(np.zeros(self.num_envs, bool))

    def step(self, actions):
        _check_reset(self._states, "step")
        env, fresh = self._desk.env, self._over
        states = jax.tree.map(np.array, env.step_batch(self._states, actions))
        for i in np.flatnonzero(fresh):
            seed = _drawn(None, self.np_random[i])
            self._tasks[i], start = self._desk.start(seed)
            for whole, one in zip(jax.tree.leaves(states), jax.tree.leaves(start)):
                whole[i] = one
        self._states = states
        success = self._desk.success(env.scene(states), self._tasks) & ~fresh
        truncated = ~success & (states.step >= self._desk.max_steps)
        self._over = success | truncated
        reward = success.astype(np.float64)
        return self._observe(), reward, success, truncated, self._infos(success)

    def render(self):
        if self.render_mode is None:
            return None
        _check_reset(self._states, "render")
        return tuple(self._desk.picture(self._states))

    def _observe(self):
        return self._desk.observe(self._states, self._tasks)

    def _infos(self, success):
        known = np.ones(self.num_envs, bool)
        names = np.array([task.task for task in self._tasks], object)
        return {
            "success": success,
            "_success": known,
            "task": names,
            "_task": known.copy(),
        }


def _drawn(seed: int | None, generator: np.random.Generator) -> int:
    """A seed as it is, or one that the env's generator draws for its next episode."""
    return int(generator.integers(_SEEDS) if seed is None else seed)


def _check_reset(state: Any, method: str) -> None:
    if state is None:
        raise ResetNeeded(f"Cannot call env.{method}() before calling env.reset()")


def _image_size(size: Any) -> tuple[int, int] | None:
    """Height and width, or None."""
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, Iterable) else (size, size)
    if len(pair) != 2 or not all(
        isinstance(n, int | np.integer) and n > 0 for n in pair
    ):
        raise ValueError(
            f"image_size is {size!r}, expected a number of pixels, (height, width) or "
            "None"
        )
    return int(pair[0]), int(pair[1])


class _Desk:
    """Shared implementation of the single and the vectorised env; it has no state."""

    def __init__(
        self, world, task, which=None, image_size=(180, 320), backend=None, **config
    ):
        image_size = _image_size(image_size)
        self._world = world = worlds.load(world)
        self.env = world.make_env(backend, **config)
        name, which = task or world.tasks.names[0], which or {}
        self._make = lambda seed: world.make_task(name, seed, self.env, **which)
        example = self._make(0)
        self.max_steps = min(example.max_steps, self.env.config.episode_length)
        look = world.look(self.env.config.get("look", "default"))
        paint = lambda size: world.pictures(
            self.env, size[0], size[1], look, supersample=1
        )
        self._image = image_size and paint(image_size)
        self._shown = self._image or paint(world.render.size)
        limit = np.float32(self.env.action_limit)
        size = (self.env.action_size,)
        self.action_space = spaces.Box(-limit, limit, size, np.float32)
        ids = 1 + max(world.language.objects)
        blocks = lambda count: spaces.MultiDiscrete([ids] * count)
        count = len(self.env.block_ids)
        parts: dict[str, Any] = {"goal_blocks": blocks(len(example.names))}
        for field, spec in world.scene.state.items():
            shape = tuple(count if n is None else n for n in spec.shape)
            if field == "block_id":
                parts[field] = blocks(count)
                continue
            low, high = (
                np.broadcast_to(np.asarray(bound, np.float32), shape)
                for bound in world.scene.bounds.get(field, (-np.inf, np.inf))
            )
            parts[field] = spaces.Box(low, high)
        if image_size is not None:
            parts["image"] = spaces.Box(0, 255, (*image_size, 3), np.uint8)
        self.observation_space = spaces.Dict(parts)

    def __deepcopy__(self, memo: dict) -> "_Desk":
        return self

    def start(self, seed: int):
        """Task and initial state of a seed."""
        check_not_forked()
        task = self._make(seed)
        state = task.reset(self.env, prng.key(seed))
        return task, jax.tree.map(np.asarray, state)

    def success(self, scene: AnyScene, tasks: list[Task]) -> np.ndarray:
        """bool[B]; the tasks have one name."""
        slots = np.array([task.slots for task in tasks])
        return np.asarray(self._world.tasks.success(tasks[0].name, scene, slots))

    def observe(self, states: Any, tasks: list[Task]) -> dict[str, np.ndarray]:
        """Observations of states with one leading axis."""
        scene = jax.tree.map(np.asarray, self.env.scene(states))
        goal = [[self.env.block_ids[slot] for slot in task.slots] for task in tasks]
        observation = {"goal_blocks": np.array(goal, np.int64)}
        for field in self._world.scene.state:
            value = np.array(getattr(scene, field))
            for i in self._world.scene.angles.get(field, ()):
                value[..., i] = np.arctan2(np.sin(value[..., i]), np.cos(value[..., i]))
            observation[field] = value
        observation["block_id"] = observation["block_id"].astype(np.int64)
        if self._image:
            observation["image"] = np.asarray(self._image(states))
        return observation

    def picture(self, states: Any) -> np.ndarray:
        """Images for display, uint8[B, height, width, 3]."""
        return np.asarray(self._shown(states))


def gymnasium_id(world: str, task: str) -> str:
    """Gymnasium id, such as "swm_jax/BoardBlockToBlock-v0"."""
    words = f"{world}_{task}".split("_")
    return f"swm_jax/{''.join(word.capitalize() for word in words)}-v0"


def _register():
    for world in worlds.names():
        for task in worlds.load(world).tasks.names:
            name = gymnasium_id(world, task)
            if name not in gymnasium.registry:
                gymnasium.register(
                    name,
                    entry_point=f"{__name__}:WorldGymEnv",
                    vector_entry_point=f"{__name__}:WorldVectorEnv",
                    kwargs={"world": world, "task": task},
                )


_register()
