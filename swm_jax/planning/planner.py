"""Common planner interface.

    planner = get_planner("mppi", candidates=64)
    state = planner.init_state(scenes)
    chunk, state, info = planner.plan(
        world_model, observation, questions, goal, state, key)

`plan` is a pure function and one jitted program: it encodes once, then runs all
iterations on the device. The planner is a static argument and the world model a pytree
argument, so a new checkpoint does not recompile.

Axes: S scenes, M proposals of a base policy, H actions of a chunk, A action width,
Q questions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Key

from swm_jax.arrays import Array
from swm_jax.models import Observation, QuestionBatch
from swm_jax.models.backbones.logical_axes import constrain, partition_spec
from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.goals.value import (
    GoalArrays,
    check_goal,
    chunk_value,
    desired_scores,
    unusable_answers,
)
from swm_jax.planning.noise import scene_keys
from swm_jax.planning.population import uniform_chunks
from swm_jax.planning.proposals import Proposals, call_inside, call_outside
from swm_jax.planning.protocol import WorldModel, check_differentiable
from swm_jax.planning.search import Problem
from swm_jax.planning.state import PlanInfo, PlannerState, blank_state, shift

# (problem, state, keys, config, proposals) -> (plan[S, H, A], info)
Solve = Callable[..., tuple[Array, PlanInfo]]


@dataclasses.dataclass(frozen=True)
class Planner:
    """A planner: name, settings and solver.

    Attributes:
      name: as in `PLANNERS`.
      config: settings.
      solve: (problem, state, keys, config, proposals) -> (plan, info); None draws
        random actions without the world model.
      needs_gradient: whether the world model must be differentiable.
    """

    name: str
    config: PlannerConfig
    solve: Solve | None
    needs_gradient: bool = False

    def init_state(self, scenes: int) -> PlannerState:
        """State before the first replan of `scenes` scenes."""
        return blank_state(scenes, self.config)

    def plan(
        self,
        world_model: WorldModel,
        observation: Observation,
        questions: QuestionBatch,
        goal: GoalArrays,
        state: PlannerState,
        key: Key[jax.Array, "*S"],
        proposals: Proposals | None = None,
        mesh: Mesh | None = None,
    ) -> tuple[Float[Array, "S H A"], PlannerState, PlanInfo]:
        """Chooses one chunk of actions per scene.

        Args:
          key: one per scene, so that a scene's plan is independent of the rest of the
            batch; a single key is folded with each scene's index.
          proposals: chunks of a base policy [S, M, H, A], or a callable that returns
            them (`swm_jax.planning.proposals`); used as initial candidates, clamped to
            the action limits.
          mesh: devices to plan on. Scenes are split over its axes `data` and `fsdp`
            where they divide, candidates over the remaining ones; a world model that is
            not on the mesh is replicated.

        Returns:
          The chunk, always finite; the state for the next replan (after
          `config.execute` actions of the chunk); and diagnostics.

        Raises:
          ValueError: an empty goal, arrays whose shapes do not fit, or a world model
            without the gradients that the planner needs.
        """
        self._check(world_model, observation, questions, goal, state)
        keys = scene_keys(key, goal.answers.shape[0])
        proposals = call_outside(proposals, observation, keys)
        scenes = observation, questions, goal, state, keys
        if mesh is None:
            return _plan(self, world_model, *scenes, proposals)
        proposals = (on_mesh if callable(proposals) else by_scene)(proposals, mesh)
        world_model = on_mesh(world_model, mesh)
        with jax.set_mesh(mesh):
            return _plan(self, world_model, *by_scene(scenes, mesh), proposals)

    def _check(self, world_model, observation, questions, goal, state):
        if self.needs_gradient:
            check_differentiable(world_model, self.name)
        check_goal(goal, questions.answer_ids.shape[2])
        if len(observation.image) != len(goal.answers):
            raise ValueError(
                f"{len(observation.image)} images for {len(goal.answers)} scenes"
            )
        if questions.type_id.shape != goal.answers.shape:
            raise ValueError(
                f"{questions.type_id.shape} [S, Q] questions, but goal answers are "
                f"{goal.answers.shape}"
            )
        want = (goal.answers.shape[0], self.config.horizon, self.config.action_size)
        if state.plan.shape != want:
            raise ValueError(
                f"planner state holds plans {state.plan.shape}, expected {want} [S,H,A]"
            )


@functools.partial(jax.jit, static_argnums=0)
def _plan(planner, world_model, observation, questions, goal, state, keys, proposals):
    config = planner.config
    scenes = goal.answers.shape[0]
    if planner.solve is None:
        plan, info = _random(config, goal, keys)
        return plan, shift(plan, config.execute, config, stage=state.stage), info
    chunks, clamped = call_inside(proposals, observation, keys, scenes, config)
    context = world_model.encode(observation, questions)

    def value_by(score):
        def evaluate(actions):
            actions = constrain(actions, "batch", "candidate")
            scores = desired_scores(
                world_model,
                context,
                actions,
                goal.answers,
                config.horizons,
                score,
                config.normalise,
                config.margin_scale,
                goal.offered,
            )
            values, _ = chunk_value(scores, goal.weights)
            bad = unusable_answers(scores, goal.weights)
            spread = lambda x: constrain(x, "batch", "candidate")
            return spread(values), spread(bad)

        return evaluate

    problem = Problem(
        value_by(config.score), value_by(config.objective or config.score)
    )
    plan, info = planner.solve(problem, state, keys, config, chunks)
    # Candidates carried into the next replan's first population (iCEM).
    _, index = jax.lax.top_k(info.values, config.carry)
    kept = jnp.take_along_axis(info.candidates, index[..., None, None], 1)
    after = shift(plan, config.execute, config, kept, state.stage)
    return plan, after, info.replace(clamped_proposals=clamped)


def by_scene(tree: Any, mesh: Mesh) -> Any:
    """Arrays with a leading axis of scenes, split over a mesh."""

    def place(x):
        spec = partition_spec(jnp.shape(x), ("batch",), mesh)
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def on_mesh(tree: Any, mesh: Mesh) -> Any:
    """Replicates arrays over a mesh; those that are on it keep their sharding."""
    devices, whole = set(mesh.devices.flat), NamedSharding(mesh, PartitionSpec())

    def place(x):
        there = isinstance(x, jax.Array) and x.sharding.device_set == devices
        return x if there else jax.device_put(x, whole)

    return jax.tree.map(place, tree)


def _random(config, goal, keys):
    """Uniform random actions, the lower bound for planners."""
    scenes, questions = goal.answers.shape
    shape = (config.horizon, config.action_size)
    plan = uniform_chunks(keys, shape, config.action_limit)
    none = jnp.zeros(scenes, jnp.int32)
    return plan, PlanInfo(
        value=jnp.zeros(scenes),
        values=jnp.zeros((scenes, 1)),
        candidates=plan[:, None],
        best=jnp.zeros((1, scenes)),
        nan_candidates=none,
        nan_answers=jnp.zeros((scenes, questions), jnp.int32),
        clamped_proposals=none,
    )
