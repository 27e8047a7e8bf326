"""Closed-loop episodes as one device program: observe, plan, act in one `lax.scan`.

It is `host_loop` without transfers to the host: physics, renderer and success test are
traceable functions passed in. All episodes start together; the state of a finished one
is frozen, and when all have finished, the remaining iterations skip the work. With
the same keys, the host's loop gives the same episodes.

Axes: S parallel episodes, R replans, X actions executed per replan, T = R X steps,
H actions of a chunk, A action width.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Bool, Float, Int, Key

from swm_jax.arrays import Array
from swm_jax.models import Observation
from swm_jax.models.backbones.logical_axes import constrain
from swm_jax.planning.controller import ask_now
from swm_jax.planning.goals.table import GoalTable, aim, choose
from swm_jax.planning.noise import fold_in_each
from swm_jax.planning.planner import Planner
from swm_jax.planning.protocol import WorldModel


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """Traceable functions of an env on a batch of states.

    Attributes:
      step: (state [S, ...], actions [S, A]) -> state, one control step.
      scene: state -> scene to record, a pytree with leading axis S.
      observe: state -> Observation.
      success: (tasks, scene) -> bool[S]; `tasks` is the argument of `run`.
    """

    step: Callable[[Any, Array], Any]
    scene: Callable[[Any], Any]
    observe: Callable[[Any], Observation]
    success: Callable[[Any, Any], Array]


class DeviceEpisodes(struct.PyTreeNode):
    """Outcomes of the episodes.

    Attributes:
      scenes: leading axes [S, T + 1]; after an episode's `steps` the last one is
        repeated.
      actions: float32[S, T, A], zeros after an episode's `steps`.
      steps: int32[S], actions executed.
      success: bool[S].
      values: float32[S, R], value of the chosen chunk; NaN after the end.
      stages: int32[S, R], stage of the goal; -1 after the end.
      nan_candidates: int32[S], candidates ignored because of a NaN answer.
      nan_answers: int32[S, O, Q], number of these by question and option of the goal.
    """

    scenes: Any
    actions: Float[Array, "S T A"]
    steps: Int[Array, " S"]
    success: Bool[Array, " S"]
    values: Float[Array, "S R"]
    stages: Int[Array, "S R"]
    nan_candidates: Int[Array, " S"]
    nan_answers: Int[Array, "S O Q"]


def make_device_loop(
    planner: Planner, around: Surroundings, max_steps: int
) -> Callable[..., DeviceEpisodes]:
    """The loop as a pure function, to be jitted or compiled ahead of time.

    Args:
      planner: replans after `planner.config.execute` actions.
      around: functions of the env.
      max_steps: longest episode; T is this rounded up to whole replans.

    Returns:
      run(world_model, table, tasks, start, limits, keys), with `table` a `GoalTable`,
      `tasks` any pytree with leading axis S, `start` the states, `limits` int32[S],
      the largest numbers of steps, and `keys` of the episodes [S].
    """
    execute = planner.config.execute
    replans = -(-max_steps // execute)

    def run(
        world_model: WorldModel,
        table: GoalTable,
        tasks: Any,
        start: Any,
        limits: Int[Array, " S"],
        keys: Key[jax.Array, " S"],
    ) -> DeviceEpisodes:
        count = limits.shape[0]
        settle = lambda tree: jax.tree.map(lambda x: constrain(x, "batch"), tree)

        def act(carry, action):
            state, steps, success, limit = carry
            going = ~success & (steps < limit)
            # Finished episodes are stepped too (fixed shapes), then restored.
            after = settle(around.step(state, action))
            state = jax.tree.map(lambda new, old: _where(going, new, old), after, state)
            success = success | (going & around.success(tasks, around.scene(state)))
            action = jnp.where(going[:, None], action, 0.0)
            return (state, steps + going, success, limit), (around.scene(state), action)

        def replan(carry, index):
            state, plans, steps, success = carry
            observation = around.observe(state)
            option, stage = jnp.zeros((2, count), jnp.int32)
            if table.present is not None:  # conditional goals: pick an option now
                chunk = (count, 1, planner.config.horizon, planner.config.action_size)
                idle = jnp.zeros(chunk)
                margins = ask_now(world_model, observation, table.present, idle)
                option, stage = choose(table, margins, plans.stage)
            going = ~success & (steps < limits)
            chunk, plans, info = planner.plan(
                world_model,
                observation,
                *aim(table, option),
                plans.replace(stage=stage),
                # Key of (episode, replan), as in `host_loop`.
                fold_in_each(keys, jnp.full(count, index)),
            )
            carry, path = lax.scan(
                act,
                (state, steps, success, limits),
                jnp.swapaxes(chunk[:, :execute], 0, 1),
            )
            state, steps, success, _ = carry
            values = jnp.where(going, info.value, jnp.nan)
            chosen = jnp.arange(table.goal.answers.shape[1]) == option[:, None]
            chosen = (chosen & going[:, None]).astype(jnp.int32)
            nan = (
                jnp.where(going, info.nan_candidates, 0),
                chosen[..., None] * info.nan_answers[:, None],
            )
            stage = jnp.where(going, stage, -1)
            return (state, plans, steps, success), (path, values, stage, nan)

        def rest(carry, index):
            del index  # the branch after the end: same outputs without the work
            scene = around.scene(carry[0])
            still = jax.tree.map(lambda x: jnp.stack([x] * execute), scene)
            idle = jnp.zeros((execute, count, planner.config.action_size))
            none = jnp.zeros(count, jnp.int32)
            nan = none, jnp.zeros(table.goal.answers.shape, jnp.int32)
            path = still, idle
            return carry, (path, jnp.full(count, jnp.nan), none - 1, nan)

        def body(carry, index):
            _, _, steps, success = carry
            over = (success | (steps >= limits)).all()
            return lax.cond(over, rest, replan, carry, index)

        carry = settle(
            (
                jax.tree.map(jnp.asarray, start),
                planner.init_state(count),
                jnp.zeros(count, jnp.int32),
                jnp.zeros(count, bool),
            )
        )
        (_, _, steps, success), out = lax.scan(body, carry, jnp.arange(replans))
        path, values, stages, nan = out
        path = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), path)
        path, actions = path
        join = lambda now, later: jnp.concatenate([now[None], later]).swapaxes(0, 1)
        scenes = jax.tree.map(join, around.scene(carry[0]), path)
        return DeviceEpisodes(
            scenes=scenes,
            actions=actions.swapaxes(0, 1),
            steps=steps,
            success=success,
            values=values.T,
            stages=stages.T,
            nan_candidates=nan[0].sum(0),
            nan_answers=nan[1].sum(0),
        )

    return run


def _where(mask: Bool[Array, " S"], new: Array, old: Array) -> Array:
    return jnp.where(mask.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
