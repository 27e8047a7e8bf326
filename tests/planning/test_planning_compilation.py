"""A replan is one program: compiled once, with no way back to the host inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from test_planning_planners import asked, wanted

from swm_jax import worlds
from swm_jax.models import Observation
from swm_jax.planning import PLANNERS, FakeWorldModel, get_planner, planner
from swm_jax.planning.controller import Controller
from swm_jax.questions import Stage, StagedGoal
from swm_jax.worlds.board.goals import goal_for_task

BOARD = worlds.language("board")

ASKING = sorted(set(PLANNERS) - {"random"})
TRACED = []


@struct.dataclass
class Traced(FakeWorldModel):
    """Notes every time that Python runs through it, which is when jax compiles."""

    def answer_logits(self, context, actions, horizons):
        TRACED.append(actions.shape)
        return super().answer_logits(context, actions, horizons)


def inputs(name, key):
    chosen = get_planner(name)
    config = chosen.config
    chunk = (config.horizon, config.action_size)
    goal = jnp.full(config.action_size, 0.02 * key)
    proposals = jnp.full((2, 1, *chunk), 0.001 * key)
    observation = Observation(image=jnp.full((2, 4, 4, 3), key, jnp.uint8))
    return chosen, (
        Traced(goal=goal, scale=jnp.array(1e-3)),
        observation,
        asked(2),
        wanted(2).replace(weights=jnp.full((2, 2), 1.0 + key)),
        chosen.init_state(2),
        jax.random.key(key),
        proposals,
    )


@pytest.mark.parametrize("name", ASKING)
def test_replans_of_one_shape_compile_once_and_stay_on_the_device(name):
    chosen, first = inputs(name, 0)
    _, state, _ = chosen.plan(*first)
    size, traces = planner._plan._cache_size(), len(TRACED)
    for key in (1, 2):  # another checkpoint, picture, goal, key, policy
        _, (model, *rest) = inputs(name, key)
        rest[3] = state
        with jax.transfer_guard("disallow"):
            _, state, _ = chosen.plan(model, *rest)
    assert planner._plan._cache_size() == size and len(TRACED) == traces


@pytest.mark.parametrize("name", ("mppi", "hybrid"))
def test_iterations_are_loops_inside_one_program(name):
    chosen, arguments = inputs(name, 0)
    program = str(jax.make_jaxpr(chosen.plan)(*arguments))
    assert "callback" not in program and "scan[" in program
    # The world model stands in it as often for seven iterations as for two.
    times = []
    for n in (2, 7):
        before = len(TRACED)
        jax.make_jaxpr(get_planner(name, iterations=n).plan)(*arguments)
        times.append(len(TRACED) - before)
    assert times[0] == times[1] > 0


def test_tasks_and_stages_of_one_shape_share_one_program():
    goals = [
        goal_for_task("reach", ("red moon",)),
        goal_for_task("separate", ("red moon", "blue cube", "green star")),
        goal_for_task("block_to_block", ("red moon", "blue cube")),
    ]
    near = BOARD.question("peg_touching", "red moon")
    staged = [StagedGoal((Stage(g, near), Stage(goals[0]))) for g in goals]
    chosen = get_planner("cem", candidates=8)
    controller = Controller(chosen, Traced(goal=jnp.zeros(2)), question_count=3)
    observation = Observation(image=np.zeros((1, 4, 4, 3), np.uint8))
    state, sizes, traces = chosen.init_state(1), [], []
    for goal in (staged[0], *goals, *staged):
        _, state, _ = controller.replan(observation, [goal], state, jax.random.key(0))
        sizes.append(planner._plan._cache_size())
        traces.append(len(TRACED))
    assert len(set(sizes)) == 1 and len(set(traces)) == 1
