"""Episodes on the device: physics by MJX, pictures, plans and verdicts in one jit.

`episode_program` gives the function and its arguments, for whoever compiles it ahead of
time; `run_on_device` runs it for a list of episodes, as `host_loop.run_episodes` does
on the host, and returns the same results.

Axes: S episodes side by side.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from swm_jax.envs import AnyScene, Env
from swm_jax.eval.episodes.device_loop import (
    DeviceEpisodes,
    Surroundings,
    make_device_loop,
)
from swm_jax.eval.episodes.host_loop import EpisodeResult
from swm_jax.eval.world_models import SUPERSAMPLE
from swm_jax.models import Observation
from swm_jax.models.logical_axes import partition_spec
from swm_jax.planning import Planner, WorldModel
from swm_jax.planning.controller import warn_of_nan
from swm_jax.planning.goal_table import goal_table
from swm_jax.planning.noise import fold_in_each
from swm_jax.planning.planner import by_scene, on_mesh
from swm_jax.planning.question_batch import Tokenizes
from swm_jax.questions.goal import Goal
from swm_jax.questions.goals import goal_for_task
from swm_jax.worlds.board import tasks as board_tasks
from swm_jax.worlds.cube import tasks as cube_tasks
from swm_jax.worlds.pictures import picture
from swm_jax.worlds.tasks import TASK_NAMES, AnyTask, task_for

# How many names a task's verdict is about, and the verdict, by domain.
_WIDTHS = {
    "board": {"reach": 1, "separate": 3, "block_to_block": 2},
    "cube": {"reach": 1, "lift": 1, "stack": 2},
}
_VERDICTS = {"board": board_tasks.task_success, "cube": cube_tasks.task_success}


@struct.dataclass
class TaskArrays:
    """Tasks of S episodes as arrays.

    Attributes:
      kind: int32[S], index into `TASK_NAMES` of the domain.
      slots: int32[S, n], slots of what each is about; the last one repeated.
    """

    kind: Int[Array, " S"]
    slots: Int[Array, "S n"]


def task_arrays(tasks: Sequence[AnyTask]) -> TaskArrays:
    """Arrays of tasks of one domain."""
    domain = tasks[0].domain
    most = max(_WIDTHS[domain].values())
    slots = [[*task.slots, *task.slots[-1:] * most][:most] for task in tasks]
    kind = [TASK_NAMES[domain].index(task.name) for task in tasks]
    return TaskArrays(np.array(kind, np.int32), np.array(slots, np.int32))


def tasks_won(domain: str, tasks: TaskArrays, scene: AnyScene) -> Bool[Array, " S"]:
    """Which of a domain's tasks are achieved in their scenes."""
    widths, verdict = _WIDTHS[domain], _VERDICTS[domain]
    names = TASK_NAMES[domain]
    won = [verdict(name, scene, tasks.slots[:, : widths[name]]) for name in names]
    return jnp.stack(won)[tasks.kind, jnp.arange(tasks.kind.shape[0])]


def surroundings(
    env: Env, image_size: tuple[int, int] | None, look: Any = None
) -> Surroundings:
    """A world's functions for the loop.

    Args:
      env: with the backend mjx.
      image_size: height and width of what the world model sees; None shows it the
        state itself.
      look: camera and colours of the picture; None for the default.

    Raises:
      ValueError: an env whose physics run on the host.
    """
    if env.backend != "mjx":
        raise ValueError(
            f"episodes on the device need the physics there: the env's backend is "
            f"'{env.backend}', expected 'mjx' (load_env(..., backend='mjx'))"
        )

    def observe(state):
        if image_size is None:
            blank = jnp.zeros((state.qpos.shape[0], 1, 1, 3), jnp.uint8)
            return Observation(image=blank, scene=state)
        return Observation(image=_on_its_device(draw, env.scene(state)))

    def draw(scene):
        return picture(scene, *image_size, supersample=SUPERSAMPLE, look=look)

    def step(state, actions):
        return _on_its_device(env.step_batch, state, actions)

    won = functools.partial(tasks_won, env.domain)
    return Surroundings(step, env.scene, observe, won)


def _on_its_device(function: Callable[..., Any], *arrays: Any) -> Any:
    """The function of every device's own episodes, without a word between devices.

    XLA would agree on every iteration of a contact solver, and gather the scenes that
    a renderer goes through one after the other.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*arrays)
    count = jax.tree.leaves(arrays)[0].shape[0]
    spec = partition_spec((count,), ("batch",), mesh)
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    return mapped(*arrays)


def episode_program(
    env: Env,
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
    room: tuple[int, int] = (1, 0),
) -> tuple[Callable[..., DeviceEpisodes], tuple]:
    """The closed loop of some episodes, and what to call it with.

    To compile it for another machine, replace the arguments by shape structs with
    shardings (`jax.eval_shape` of an identity gives the shapes).

    Args:
      env, tasks, world_model, planner, key, preset, goal, tokenizer, question_length,
        image_size, look, max_steps: as for `host_loop.run_episodes`.
      room: options and questions per option that the goal arrays hold at least.

    Returns:
      A pure function, not jitted yet, and its arguments.
    """
    if goal is None:
        goal = lambda task: _preset_goal(task, preset)
    made = [task_for(env, name, seed) for name, seed in tasks]
    states = [t.reset(env, jax.random.key(seed)) for t, (_, seed) in zip(made, tasks)]
    start = jax.tree.map(lambda *x: jnp.stack(x), *states)
    options, count = room
    goals = [goal(task) for task in made]
    most = max(len(o.questions) for g in goals for o in getattr(g, "options", (g,)))
    table = goal_table(
        goals, tokenizer, question_length, options=options, count=max(count, most)
    )
    limits = np.array([max_steps or task.max_steps for task in made], np.int32)
    seeds = np.array([seed for _, seed in tasks], np.uint32)
    keys = fold_in_each(key, seeds)
    around = surroundings(env, image_size, look)
    run = make_device_loop(planner, around, int(limits.max()))
    return run, (world_model, table, task_arrays(made), start, limits, keys)


def run_on_device(
    env: Env,
    tasks: Sequence[tuple[str, int]],
    world_model: WorldModel,
    planner: Planner,
    key: jax.Array,
    *,
    parallel: int = 16,
    mesh: Mesh | None = None,
    on_end: Callable[[EpisodeResult], None] | None = None,
    **settings: Any,
) -> list[EpisodeResult]:
    """Runs every (task name, seed) once, `parallel` side by side, in that order.

    Warns, once in a process, of questions answered NaN.

    Args:
      env, tasks, world_model, planner, key: as for `episode_program`.
      parallel: S; the last group is filled up with repetitions, which are dropped.
      mesh: devices that episodes and candidates are split over.
      on_end: called with every result, when all of its group have ended.
      **settings: of `episode_program`.
    """
    tasks, results, compiled = list(tasks), [], None
    size = min(parallel, len(tasks))
    options = [_options(env, *task, settings) for task in tasks]
    # Room for every group's goals: one program for all.
    most = max(len(option.questions) for each in options for option in each)
    settings["room"] = max(map(len, options)), most
    for group in range(0, len(tasks), size):
        index = [i % len(tasks) for i in range(group, group + size)]
        chosen = [tasks[i] for i in index]
        run, arguments = episode_program(
            env, chosen, world_model, planner, key, **settings
        )
        if mesh is not None:
            model, *episodes = arguments
            arguments = (on_mesh(model, mesh), *by_scene(tuple(episodes), mesh))
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            if compiled is None:
                compiled = jax.jit(run).lower(*arguments).compile()
            started = time.perf_counter()
            out = jax.device_get(jax.block_until_ready(compiled(*arguments)))
        spent = time.perf_counter() - started
        for i, nan in zip(index, out.nan_answers):
            warn_of_nan(nan[: len(options[i])], options[i])
        for result in _results(out, chosen, env, planner, spent)[: len(tasks) - group]:
            results.append(result)
            if on_end:
                on_end(result)
    return results


def _options(env, name, seed, settings) -> tuple[Goal, ...]:
    """Every goal that an episode may come to aim at."""
    goal, preset = settings.get("goal"), settings.get("preset", "shaped")
    task = task_for(env, name, seed)
    whole = goal(task) if goal else _preset_goal(task, preset)
    return getattr(whole, "options", (whole,))


def _preset_goal(task: AnyTask, preset: str) -> Any:
    return goal_for_task(task.name, task.names, preset, domain=task.domain)


def _results(out: DeviceEpisodes, tasks, env, planner, spent) -> list[EpisodeResult]:
    execute = planner.config.execute
    replans = int((~np.isnan(out.values)).any(0).sum()) or 1
    results = []
    for s, (name, seed) in enumerate(tasks):
        task = task_for(env, name, seed)
        steps = int(out.steps[s])
        path = jax.tree.map(lambda x, s=s, end=steps + 1: x[s, :end], out.scenes)
        results.append(
            EpisodeResult(
                task=name,
                seed=seed,
                blocks=tuple(task.names),
                success=bool(out.success[s]),
                steps=steps,
                seconds_per_replan=spent / replans / len(tasks),
                candidates_per_replan=planner.config.candidates_per_replan,
                values=out.values[s, : -(-steps // execute)].tolist(),
                nan_candidates=int(out.nan_candidates[s]),
                scenes=path,
                actions=out.actions[s, :steps],
            )
        )
    return results
