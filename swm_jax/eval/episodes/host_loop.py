"""Closed-loop episodes on the host: render, plan, act, until the task is solved.

Parallel episodes are the scenes axis S of one replan; when one finishes, the next takes
its place, so that array sizes stay and nothing recompiles. Loop and physics run on the
host; replans run on the device.

Axes: S parallel episodes, T steps of an episode, H actions of a chunk, A action width.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Key

from swm_jax import prng
from swm_jax.envs import Env
from swm_jax.eval.episodes.setup import EpisodeResult, Setup
from swm_jax.models import Observation
from swm_jax.planning.controller import Controller
from swm_jax.planning.noise import fold_in_each
from swm_jax.planning.planner import Planner
from swm_jax.planning.proposals import Proposals
from swm_jax.planning.protocol import WorldModel


def run_episodes(
    env: Env,
    tasks: Sequence[tuple[str, int]],
    world_model: WorldModel,
    planner: Planner,
    key: Key[jax.Array, ""],
    *,
    parallel: int = 16,
    policy: Proposals | None = None,
    mesh: Mesh | None = None,
    on_end: Callable[[EpisodeResult], None] | None = None,
    **setup: Any,
) -> list[EpisodeResult]:
    """Runs every (task name, seed) once and returns the results in that order.

    Args:
      env, world_model, planner, key: see `Setup`.
      tasks: (task name, seed) of each episode. The seed determines the start and, with
        `key`, the planner's draws, independently of the other episodes.
      parallel: largest S; smaller when fewer episodes remain.
      policy: base policy whose proposals are the planner's initial candidates.
      mesh: devices over which replans are sharded, see `Planner.plan`.
      on_end: called with every result when its episode finishes.
      **setup: further fields of `Setup`.
    """
    whole = Setup(env, world_model, planner, key, **setup)
    return HostLoop(whole, tasks, parallel, policy, mesh, on_end).run()


@dataclasses.dataclass
class _Playing:
    """An episode in progress.

    Attributes:
      index: its number among all episodes.
      seconds: of its replans, without those that compiled.
      last: seconds of the last replan, compilation included.
      nan: candidates ignored so far because of a NaN answer.
    """

    index: int
    scenes: list
    actions: list = dataclasses.field(default_factory=list)
    values: list = dataclasses.field(default_factory=list)
    seconds: list = dataclasses.field(default_factory=list)
    last: float = 0.0
    nan: int = 0
    done: bool = False
    success: bool = False


class HostLoop:
    """Runner of closed-loop episodes, several in parallel.

    Args:
      setup: env, world model, planner and goals.
      episodes: (task name, seed) of each.
      parallel, policy, mesh, on_end: as for `run_episodes`.
    """

    def __init__(
        self,
        setup: Setup,
        episodes: Sequence[tuple[str, int]],
        parallel: int,
        policy: Proposals | None = None,
        mesh: Mesh | None = None,
        on_end: Callable[[EpisodeResult], None] | None = None,
    ):
        self._setup, self._env, self._planner = setup, setup.env, setup.planner
        self._prepared = setup.prepare(episodes)
        self._parallel, self._on_end = parallel, on_end
        self._controller = Controller(
            setup.planner, setup.world_model, policy=policy, mesh=mesh
        )
        self._draw = _painter(setup)
        self._waiting = collections.deque(range(len(episodes)))
        self._playing: list[_Playing] = []
        self._states: Any = None  # of the env, leading axis S
        self._plans: Any = None  # of the planner, leading axis S
        self._compiled: set[int] = set()  # batch sizes that are compiled already
        self._results: dict[int, EpisodeResult] = {}

    def run(self) -> list[EpisodeResult]:
        """Runs all episodes and returns the results in their order."""
        while self._waiting or self._playing:
            self._begin()
            chunk = self._replan()
            for t in range(self._planner.config.execute):
                self._step(chunk[:, t])
            self._leave()
        return [self._results[i] for i in sorted(self._results)]

    def _begin(self) -> None:
        """Starts waiting episodes in the free places."""
        starts = []
        while self._waiting and len(self._playing) < self._parallel:
            index = self._waiting.popleft()
            key = prng.key(int(self._prepared.seeds[index]))
            state = _numpy(self._prepared.tasks[index].reset(self._env, key))
            self._playing.append(_Playing(index, [_numpy(self._env.scene(state))]))
            starts.append(state)
        if starts:
            states = jax.tree.map(lambda *x: np.stack(x), *starts)
            self._states = _join(self._states, states)
            plans = _numpy(self._planner.init_state(len(starts)))
            self._plans = _join(self._plans, plans)

    def _replan(self) -> Float[np.ndarray, "S H A"]:
        """One chunk for every episode in progress."""
        count = len(self._playing)
        # Pad by repetition to one of few batch sizes, to limit recompilation.
        size = _bucket(count, self._parallel)
        padded = np.resize(np.arange(count), size)
        index = [self._playing[i].index for i in padded]
        before = np.array([len(self._playing[i].values) for i in padded], np.uint32)
        keys = fold_in_each(self._prepared.keys[np.array(index)], before)
        observation = self._observe(_take(self._states, padded))
        jax.block_until_ready(observation)
        started = time.perf_counter()
        chunk, plans, info = self._controller.replan(
            observation,
            self._prepared.goals.rows(index),
            _take(self._plans, padded),
            keys,
        )
        chunk, plans, values, nan = map(
            _numpy, (chunk, plans, info.value, info.nan_candidates)
        )
        spent = (time.perf_counter() - started) / count
        self._plans = _take(plans, np.arange(count))
        for i, each in enumerate(self._playing):
            each.values.append(float(values[i]))
            each.nan += int(nan[i])
            each.last = spent
            if size in self._compiled:
                each.seconds.append(spent)
        self._compiled.add(size)
        return chunk[:count]

    def _observe(self, states: Any) -> Observation:
        """Observations for the world model: images, or states or scenes without one."""
        if self._draw is not None:
            return Observation(image=self._draw(states))
        scene = self._env.scene(states)
        blank = np.zeros((*scene.batch_shape, 1, 1, 3), np.uint8)
        # A simulator cannot step states of a package's env, so it gets scenes.
        foreign = hasattr(self._env, "pictures")
        return Observation(image=blank, scene=scene if foreign else states)

    def _step(self, actions: Float[np.ndarray, "S A"]) -> None:
        """One control step; results of finished episodes are ignored."""
        self._states = _numpy(self._env.step_batch(self._states, actions))
        scene = _numpy(self._env.scene(self._states))
        for i, each in enumerate(self._playing):
            if each.done:
                continue
            each.scenes.append(_take(scene, i))
            each.actions.append(actions[i])
            task = self._prepared.tasks[each.index]
            each.success = bool(task.success(each.scenes[-1]))
            limit = self._prepared.limits[each.index]
            each.done = each.success or len(each.actions) >= limit
            if each.done:
                self._finish(each)

    def _finish(self, each: _Playing) -> None:
        """Stores the result of an episode and calls `on_end`."""
        result = self._setup.result(
            self._prepared.tasks[each.index],
            int(self._prepared.seeds[each.index]),
            success=each.success,
            steps=len(each.actions),
            seconds_per_replan=float(np.median(each.seconds or [each.last])),
            values=each.values,
            nan_candidates=each.nan,
            scenes=jax.tree.map(lambda *x: np.stack(x), *each.scenes),
            actions=np.stack(each.actions),
        )
        self._results[each.index] = result
        if self._on_end:
            self._on_end(result)

    def _leave(self) -> None:
        """Frees the places of finished episodes."""
        going = np.array([not each.done for each in self._playing])
        self._playing = [each for each in self._playing if not each.done]
        there = bool(self._playing)
        self._states = _take(self._states, going) if there else None
        self._plans = _take(self._plans, going) if there else None


def _painter(setup: Setup) -> Callable[[Any], Any] | None:
    """Renderer states -> uint8[S, h, w, 3]; None if no image is needed."""
    if setup.image_size is None:
        return None
    return setup.world.pictures(setup.env, *setup.image_size, look=setup.look)


def _bucket(count: int, parallel: int) -> int:
    """Batch size for `count` scenes: `parallel` halved while it still holds them.

    For parallel = 16, 5 scenes get a batch of 8.
    """
    size = parallel
    while size // 2 >= count:
        size //= 2
    return size


def _numpy(tree):
    return jax.tree.map(np.asarray, tree)


def _take(tree, index):
    return jax.tree.map(lambda x: np.asarray(x)[index], tree)


def _join(a, b):
    if a is None:
        return b
    return jax.tree.map(lambda x, y: np.concatenate([x, y]), a, b)
