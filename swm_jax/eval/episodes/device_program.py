"""Episodes on the device: MJX physics, rendering, planning and success in one jit.

`episode_program` returns the function and its arguments, for ahead-of-time compilation;
`run_on_device` runs a list of episodes with the same results as
`host_loop.run_episodes`.

Axes: S parallel episodes, n slots of a task.
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
from jaxtyping import Bool, Int, Key

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.envs import AnyScene, Env
from swm_jax.eval.episodes.device_loop import (
    DeviceEpisodes,
    Surroundings,
    make_device_loop,
)
from swm_jax.eval.episodes.setup import EpisodeResult, Prepared, Setup
from swm_jax.models import Observation
from swm_jax.models.backbones.logical_axes import partition_spec
from swm_jax.planning import Planner, WorldModel
from swm_jax.planning.controller import warn_of_nan
from swm_jax.planning.planner import by_scene, on_mesh
from swm_jax.questions.conditional_goals import options_of
from swm_jax.worlds.world import Task, World


class TaskArrays(struct.PyTreeNode):
    """Tasks of S episodes as arrays.

    Attributes:
      kind: int32[S], index into the names of the world's tasks.
      slots: int32[S, n], slots of a task's objects, padded by repeating the last.
    """

    kind: Int[Array, " S"]
    slots: Int[Array, "S n"]


def task_arrays(world: World, tasks: Sequence[Task]) -> TaskArrays:
    """Tasks of one world as arrays."""
    most = max(slot_counts(world).values())
    slots = [[*task.slots, *task.slots[-1:] * most][:most] for task in tasks]
    kind = [world.tasks.names.index(task.name) for task in tasks]
    return TaskArrays(np.array(kind, np.int32), np.array(slots, np.int32))


def tasks_won(world: World, tasks: TaskArrays, scene: AnyScene) -> Bool[Array, " S"]:
    """Whether each task is achieved in its scene."""
    # Evaluate every kind of task on all scenes, then select: traceable, and few kinds.
    won = [
        world.tasks.success(name, scene, tasks.slots[:, :count])
        for name, count in slot_counts(world).items()
    ]
    return jnp.stack(won)[tasks.kind, jnp.arange(tasks.kind.shape[0])]


def slot_counts(world: World) -> dict[str, int]:
    """Number of slots by name of a world's tasks."""
    make = lambda name: world.tasks.make(name, 0, world.env.settings())
    return {name: len(make(name).slots) for name in world.tasks.names}


def surroundings(setup: Setup) -> Surroundings:
    """Functions of the setup's env and world for the device loop.

    Raises:
      ValueError: an env with physics on the host.
    """
    env, world, size = setup.env, setup.world, setup.image_size
    if not env.traceable:
        raise ValueError(
            f"episodes on the device need the physics there: the env's backend is "
            f"'{env.backend}', expected '{world.env.device_engine}' "
            "(load_env(..., backend=...))"
        )

    def observe(state):
        if size is None:
            count = jax.tree.leaves(state)[0].shape[0]
            blank = jnp.zeros((count, 1, 1, 3), jnp.uint8)
            return Observation(image=blank, scene=state)
        return Observation(image=_on_its_device(draw, env.scene(state)))

    def draw(scene):
        assert size is not None
        return world.render.device(scene, *size, supersample=2, look=setup.look)

    def step(state, actions):
        return _on_its_device(env.step_batch, state, actions)

    won = functools.partial(tasks_won, world)
    return Surroundings(step, env.scene, observe, won)


def _on_its_device(function: Callable[..., Any], *arrays: Any) -> Any:
    """Applies a function per device to its own episodes, without communication.

    Otherwise XLA's partitioner adds collectives: a reduction in every iteration of the
    contact solver's while loop, and a gather of the scenes before the renderer's loop.
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
    setup: Setup, prepared: Prepared, index: Sequence[int]
) -> tuple[Callable[..., DeviceEpisodes], tuple]:
    """Closed loop of some episodes as a function, and its arguments.

    To compile it for another machine, replace the arguments by shape structs with
    shardings (`jax.eval_shape` of an identity gives the shapes).

    Args:
      setup: with a traceable env.
      prepared: result of `setup.prepare`.
      index: S episodes of these.

    Returns:
      A pure function, not jitted yet, and its arguments: the world model, a
      `GoalTable`, `TaskArrays`, states, limits and keys of the episodes.
    """
    rows = np.asarray(index)
    tasks = [prepared.tasks[i] for i in rows]
    seeds = prepared.seeds[rows].tolist()
    starts = [t.reset(setup.env, prng.key(s)) for t, s in zip(tasks, seeds)]
    run = make_device_loop(
        setup.planner, surroundings(setup), int(prepared.limits.max())
    )
    return run, (
        setup.world_model,
        prepared.goals.rows(rows).table,
        task_arrays(setup.world, tasks),
        jax.tree.map(lambda *x: jnp.stack(x), *starts),
        prepared.limits[rows],
        prepared.keys[rows],
    )


def run_on_device(
    env: Env,
    tasks: Sequence[tuple[str, int]],
    world_model: WorldModel,
    planner: Planner,
    key: Key[jax.Array, ""],
    *,
    parallel: int = 16,
    mesh: Mesh | None = None,
    on_end: Callable[[EpisodeResult], None] | None = None,
    **setup: Any,
) -> list[EpisodeResult]:
    """Runs every (task name, seed) once, `parallel` at a time; results in that order.

    Warns of questions answered NaN, once per process.

    Args:
      env, world_model, planner, key: see `Setup`.
      tasks: as for `host_loop.run_episodes`.
      parallel: S; the last group is padded with repetitions, which are dropped.
      mesh: devices over which episodes and candidates are sharded.
      on_end: called with every result, when all of its group have finished.
      **setup: further fields of `Setup`.
    """
    whole = Setup(env, world_model, planner, key, **setup)
    prepared = whole.prepare(tasks)  # goals of all groups padded alike: one compilation
    size, results, compiled = min(parallel, len(tasks)), [], None
    for group in range(0, len(tasks), size):
        index = [i % len(tasks) for i in range(group, group + size)]
        run, arguments = episode_program(whole, prepared, index)
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
            options = options_of(prepared.goals.goals[i])
            warn_of_nan(nan[: len(options)], options)
        made = _results(out, whole, prepared, index, spent)
        for result in made[: len(tasks) - group]:
            results.append(result)
            if on_end:
                on_end(result)
    return results


def _results(
    out: DeviceEpisodes, setup: Setup, prepared: Prepared, index, spent: float
) -> list[EpisodeResult]:
    execute = setup.planner.config.execute
    replans = int((~np.isnan(out.values)).any(0).sum()) or 1
    results = []
    for s, i in enumerate(index):
        steps = int(out.steps[s])
        path = jax.tree.map(lambda x, s=s, end=steps + 1: x[s, :end], out.scenes)
        result = setup.result(
            prepared.tasks[i],
            int(prepared.seeds[i]),
            success=bool(out.success[s]),
            steps=steps,
            seconds_per_replan=spent / replans / len(index),
            values=out.values[s, : -(-steps // execute)].tolist(),
            nan_candidates=int(out.nan_candidates[s]),
            scenes=path,
            actions=out.actions[s, :steps],
        )
        results.append(result)
    return results
