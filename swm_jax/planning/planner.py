"""One interface for every planner, and the one place that knows their names.

    planner = get_planner("mppi", candidates=64)
    state = planner.init_state(scenes)
    chunk, state, info = planner.plan(
        world_model, observation, questions, goal, state, key)

`plan` is pure and one jit: encode once, then all iterations on the device. The
planner is static, the world model an argument: a new checkpoint does not recompile.

Axes: S scenes, M proposals of a base policy, H actions of a chunk, A action width.
"""

import dataclasses
import difflib
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from swm_jax.models import Observation, QuestionBatch
from swm_jax.planning.best_of_n import refit_nothing
from swm_jax.planning.cem import refit_cem
from swm_jax.planning.mppi import refit_mppi
from swm_jax.planning.protocol import WorldModel
from swm_jax.planning.search import (
    PlanInfo,
    PlannerConfig,
    PlannerState,
    Refit,
    search,
    shift,
)
from swm_jax.planning.value import GoalArrays, check_goal, chunk_value, desired_scores


@dataclasses.dataclass(frozen=True)
class Planner:
    """A name, settings and the rule by which populations follow one another.

    Attributes:
      refit: None draws actions at random and asks nobody.
    """

    name: str
    config: PlannerConfig
    refit: Refit | None

    def init_state(self, scenes: int) -> PlannerState:
        """State before the first replan of `scenes` scenes."""
        shape = (scenes, self.config.horizon, self.config.action_size)
        return PlannerState(jnp.zeros(shape), jnp.zeros(scenes, bool))

    def plan(
        self,
        world_model: WorldModel,
        observation: Observation,
        questions: QuestionBatch,
        goal: GoalArrays,
        state: PlannerState,
        key: Key[Array, ""],
        proposals: Float[Array, "S M H A"] | None = None,
    ) -> tuple[Float[Array, "S H A"], PlannerState, PlanInfo]:
        """Chooses one chunk of actions per scene.

        Returns:
          the chunk, the state for the next replan (after `config.execute` actions
          of the chunk), and what was seen on the way.

        Raises:
          ValueError: an empty goal, or arrays whose shapes do not fit.
        """
        self._check(questions, goal, state, proposals)
        return _plan(
            self, world_model, observation, questions, goal, state, key, proposals
        )

    def _check(self, questions, goal, state, proposals):
        check_goal(goal)
        if questions.type_id.shape != goal.answers.shape:
            raise ValueError(
                f"{questions.type_id.shape} [S, Q] questions, but goal answers are "
                f"{goal.answers.shape}"
            )
        chunk = (self.config.horizon, self.config.action_size)
        want = (goal.answers.shape[0], *chunk)
        if state.plan.shape != want:
            raise ValueError(
                f"planner state holds plans {state.plan.shape}, expected {want} [S,H,A]"
            )
        if proposals is not None and proposals.shape[-2:] != chunk:
            raise ValueError(
                f"proposals end in {proposals.shape[-2:]}, expected {chunk} [H, A]"
            )


_UNIFORM = PlannerConfig(
    candidates=64,
    iterations=10,
    execute=2,
    score="probability",
    normalise="vocabulary",
    init="uniform",
    min_std=0.0,
    noise_exponent=0.0,
    stroke_fraction=0.0,
    fresh_fraction=0.0,
    keep=0,
    warm_start=False,
    temperature=1.5,
    temperature_unit="value",
)

PLANNERS: dict[str, tuple[Refit | None, PlannerConfig]] = {
    "mppi": (refit_mppi, PlannerConfig()),
    "mppi_published": (refit_mppi, _UNIFORM),
    "cem": (refit_cem, PlannerConfig()),
    "best_of_n": (refit_nothing, PlannerConfig(candidates=256, iterations=1)),
    "random": (
        None,
        PlannerConfig(candidates=2, iterations=1, keep=0, elites=0, init="uniform"),
    ),
}


def get_planner(name: str, **overrides) -> Planner:
    """Builds a planner by name.

    Args:
      name: one of `PLANNERS`.
      overrides: fields of `PlannerConfig` that differ from the named default.

    Raises:
      ValueError: unknown name or field, or a value out of bounds.
    """
    if name not in PLANNERS:
        raise ValueError(_unknown("planner", name, PLANNERS))
    refit, config = PLANNERS[name]
    fields = [field.name for field in dataclasses.fields(PlannerConfig)]
    for field in overrides:
        if field not in fields:
            raise ValueError(_unknown("planner setting", field, fields))
    return Planner(name, dataclasses.replace(config, **overrides), refit)


def _unknown(what: str, name: str, known) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
    return f"unknown {what} {name!r}{hint}"


@functools.partial(jax.jit, static_argnums=0)
def _plan(planner, world_model, observation, questions, goal, state, key, proposals):
    config = planner.config
    if planner.refit is None:
        return _random(config, state, key)
    context = world_model.encode(observation, questions)

    def evaluate(actions):
        scores = desired_scores(
            world_model,
            context,
            actions,
            goal.answers,
            config.horizons,
            config.score,
            config.normalise,
            config.margin_scale,
        )
        return chunk_value(scores, goal.weights)

    plan, info = search(evaluate, planner.refit, state, key, config, proposals)
    return plan, shift(plan, config.execute, config), info


def _random(config, state, key):
    """Uniform actions: what a planner must beat to be called one."""
    limit = config.action_limit
    plan = jax.random.uniform(key, state.plan.shape, minval=-limit, maxval=limit)
    scenes = plan.shape[0]
    info = PlanInfo(
        value=jnp.zeros(scenes),
        values=jnp.zeros((scenes, 1)),
        candidates=plan[:, None],
        best=jnp.zeros((1, scenes)),
        nan_candidates=jnp.zeros(scenes, jnp.int32),
    )
    return plan, shift(plan, config.execute, config), info
