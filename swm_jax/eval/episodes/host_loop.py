"""Closed-loop episodes: render, look, plan, act, until the task is done.

Many episodes run side by side as the scenes axis S of one replan; when one ends, the
next begins in its place, so that arrays keep their size and nothing recompiles. The
physics and the loop are on the host; everything about a replan is on the device.

Axes: S episodes side by side, T steps of an episode, H actions of a chunk.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from swm_jax.envs import AnyScene
from swm_jax.models import Observation
from swm_jax.planning.controller import Controller
from swm_jax.planning.noise import fold_in_each
from swm_jax.planning.planner import Planner
from swm_jax.planning.proposals import Proposals
from swm_jax.planning.protocol import WorldModel
from swm_jax.planning.question_batch import Tokenizes
from swm_jax.questions.goals import goal_for_task
from swm_jax.worlds.pictures import picture
from swm_jax.worlds.tasks import task_for


@dataclasses.dataclass(frozen=True)
class EpisodeResult:
    """What became of one episode.

    Attributes:
      task: name of the task, and its seed.
      blocks: names of the blocks it is about.
      success: True if the task was solved; an episode ends at its first success.
      steps: actions carried out.
      seconds_per_replan: median wall time of a replan, divided by the episodes that
        were planned in it; replans that compiled are not counted.
      candidates_per_replan: candidates x iterations.
      values: value of the chosen chunk at every replan.
      nan_candidates: candidates ignored because an answer was NaN.
      scenes: scene with leading axis T + 1 (numpy).
      actions: float32[T, A], what was carried out.
    """

    task: str
    seed: int
    blocks: tuple[str, ...]
    success: bool
    steps: int
    seconds_per_replan: float
    candidates_per_replan: int
    values: list[float]
    nan_candidates: int
    scenes: AnyScene
    actions: np.ndarray


@dataclasses.dataclass
class _Slot:
    """One place of the batch, and the episode that is in it."""

    task_name: str
    seed: int
    task: Any
    goal: Any
    scenes: list = dataclasses.field(default_factory=list)
    actions: list = dataclasses.field(default_factory=list)
    values: list = dataclasses.field(default_factory=list)
    seconds: list = dataclasses.field(default_factory=list)
    nan: int = 0
    done: bool = False
    success: bool = False


def run_episodes(
    env: Any,
    tasks: Sequence[tuple[str, int]],
    world_model: WorldModel,
    planner: Planner,
    key: jax.Array,
    *,
    preset: str = "shaped",
    goal: Callable[[Any], Any] | None = None,
    tokenizer: Tokenizes | None = None,
    question_length: int | None = None,
    image_size: tuple[int, int] | None = None,
    look: Any = None,
    max_steps: int | None = None,
    parallel: int = 16,
    policy: Proposals | None = None,
    mesh: Mesh | None = None,
    on_end: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Runs every (task name, seed) once and returns the results in that order.

    Args:
      env: see `swm_jax.worlds.load_env`.
      tasks: which episodes; a seed fixes the start and, with `key`, all that is drawn
        while planning, whatever runs beside it.
      key: of the planner's draws; every replan of an episode folds in the episode's
        seed and the number of replans before it.
      preset: goal preset, see `swm_jax.questions.goals.goal_for_task`.
      goal: overrides the preset: task -> Goal.
      image_size: height and width of the picture the world model gets (supersampled
        2 x 2); None for a world model that reads the scene instead.
      look: camera and colours of the picture; None for the default.
      max_steps: overrides the task's own limit.
      parallel: S, at most; fewer when fewer episodes are left.
      policy: base policy whose proposals the planner starts from.
      mesh: devices that replans are split over, see `Planner.plan`.
      on_end: called with every result as soon as it exists.
    """
    if goal is None:
        goal = lambda task: goal_for_task(
            task.name, task.names, preset, domain=task.domain
        )
    draw = _painter(env, image_size, look)
    # Worlds of somebody else's physics are shown to a simulator as scenes.
    observed = env.scene if hasattr(env, "pictures") else lambda states: states
    waiting = list(enumerate(tasks))[::-1]
    results: dict[int, EpisodeResult] = {}
    slots: list[tuple[int, _Slot]] = []
    states, plans = None, None
    compiled: set[tuple[int, int]] = set()
    execute = planner.config.execute

    def begin(count):
        fresh = []
        for _ in range(min(count, len(waiting))):
            index, (name, seed) = waiting.pop()
            task = task_for(env, name, seed)
            slot = _Slot(name, seed, task, goal(task))
            state = _numpy(task.reset(env, jax.random.key(seed)))
            slot.scenes.append(_numpy(env.scene(state)))
            fresh.append((index, slot, state))
        return fresh

    count = 1
    while waiting or slots:
        fresh = begin(parallel - len(slots))
        if fresh:
            blank = _numpy(planner.init_state(len(fresh)))
            new = jax.tree.map(lambda *x: np.stack(x), *[s for _, _, s in fresh])
            states = new if states is None or not slots else _join(states, new)
            plans = blank if plans is None or not slots else _join(plans, blank)
            slots += [(index, slot) for index, slot, _ in fresh]
        size = _bucket(len(slots), parallel)
        padded = np.resize(np.arange(len(slots)), size)
        seen = _take(states, padded)
        goals = [slots[i][1].goal for i in padded]
        seeds = np.array([slots[i][1].seed for i in padded], np.uint32)
        before = np.array([len(slots[i][1].values) for i in padded], np.uint32)
        count = max(count, *map(_question_count, goals))
        controller = Controller(
            planner, world_model, tokenizer, question_length, count, policy, mesh
        )
        keys = fold_in_each(fold_in_each(key, seeds), before)
        observation = Observation(
            image=draw(seen), scene=observed(seen) if image_size is None else None
        )
        jax.block_until_ready(observation)
        started = time.perf_counter()
        chunk, after, info = controller.replan(
            observation, goals, _take(plans, padded), keys
        )
        chunk, after, values, nan = map(
            _numpy, (chunk, after, info.value, info.nan_candidates)
        )
        spent = (time.perf_counter() - started) / len(slots)
        plans = _take(after, np.arange(len(slots)))
        for i, (_, slot) in enumerate(slots):
            slot.values.append(float(values[i]))
            slot.nan += int(nan[i])
            if (size, count) in compiled:
                slot.seconds.append(spent)
        compiled.add((size, count))
        for t in range(execute):
            states = _numpy(env.step_batch(states, chunk[: len(slots), t]))
            scene = _numpy(env.scene(states))
            for i, (index, slot) in enumerate(slots):
                if slot.done:
                    continue
                slot.scenes.append(_take(scene, i))
                slot.actions.append(chunk[i, t])
                slot.success = bool(slot.task.success(slot.scenes[-1]))
                limit = max_steps or slot.task.max_steps
                slot.done = slot.success or len(slot.scenes) > limit
                if slot.done:
                    results[index] = _result(slot, planner, spent)
                    if on_end:
                        on_end(results[index])
        going = np.array([not slot.done for _, slot in slots])
        states, plans = _take(states, going), _take(plans, going)
        slots = [each for each, goes in zip(slots, going) if goes]
    return [results[i] for i in range(len(tasks))]


def _result(slot: _Slot, planner: Planner, spent: float) -> EpisodeResult:
    return EpisodeResult(
        task=slot.task_name,
        seed=slot.seed,
        blocks=tuple(slot.task.names),
        success=slot.success,
        steps=len(slot.scenes) - 1,
        seconds_per_replan=float(np.median(slot.seconds or [spent])),
        candidates_per_replan=planner.config.candidates_per_replan,
        values=slot.values,
        nan_candidates=slot.nan,
        scenes=jax.tree.map(lambda *x: np.stack(x), *slot.scenes),
        actions=np.stack(slot.actions),
    )


def _question_count(goal) -> int:
    """Q of a goal, or of the largest goal it may turn into."""
    return max(len(each.questions) for each in getattr(goal, "options", (goal,)))


def _painter(env, image_size, look):
    """States -> uint8[S, h, w, 3]; a single black pixel if nobody looks at it.

    An env with a camera of its own (`pictures`) draws them itself.
    """
    if image_size is None:
        blank = lambda scene: np.zeros((*scene.batch_shape, 1, 1, 3), np.uint8)
        return lambda states: blank(env.scene(states))
    if hasattr(env, "pictures"):
        return lambda states: env.pictures(states, *image_size)
    extra = {} if look is None else {"look": look}
    height, width = image_size
    paint = jax.jit(lambda scene: picture(scene, height, width, supersample=2, **extra))
    return lambda states: paint(env.scene(states))


def _bucket(count: int, parallel: int) -> int:
    """Batch size for `count` scenes: parallel, or that halved as often as fits."""
    size = parallel
    while size // 2 >= count:
        size //= 2
    return size


def _numpy(tree):
    return jax.tree.map(np.asarray, tree)


def _take(tree, index):
    return jax.tree.map(lambda x: np.asarray(x)[index], tree)


def _join(a, b):
    return jax.tree.map(lambda x, y: np.concatenate([x, y]), a, b)
