"""Episodes on the device: the host loop's, and goals chosen as the host chooses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from goal_choice import by_hand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_planning_closed_loop import Onlooker

from swm_jax import worlds
from swm_jax.eval.episodes.device_loop import Surroundings, make_device_loop
from swm_jax.eval.episodes.device_program import (
    episode_program,
    run_on_device,
    surroundings,
    task_arrays,
    tasks_won,
)
from swm_jax.eval.episodes.host_loop import run_episodes
from swm_jax.eval.episodes.setup import Setup
from swm_jax.models import Observation
from swm_jax.planning import get_planner
from swm_jax.planning.controller import Controller
from swm_jax.planning.goals.table import aim, choose, goal_table
from swm_jax.planning.noise import fold_in_each
from swm_jax.questions import Stage, StagedGoal
from swm_jax.questions.conditional_goals import options_of, present_of, stages_of
from swm_jax.worlds.board.goals import goal_for_task
from swm_jax.worlds.board.scene import Scene
from swm_jax.worlds.board.tasks import make_task

BOARD = worlds.language("board")

SMALL = dict(candidates=4, iterations=2, keep=2, elites=2, execute=4)
PLAIN = goal_for_task("reach", ("blue cube",))
SIDED = goal_for_task("block_to_block", ("red moon", "green star"), "shaped")
MOVED, NEAR = BOARD.question("peg_moved"), BOARD.question("peg_touching", "red moon")
GOALS = [
    PLAIN,
    SIDED,
    StagedGoal((Stage(PLAIN, NEAR), Stage(SIDED))),
    StagedGoal((Stage(SIDED, NEAR, 0.8, 0.3), Stage(PLAIN, MOVED), Stage(SIDED))),
    StagedGoal((Stage(PLAIN, NEAR), Stage(SIDED, MOVED), Stage(PLAIN)), "latch"),
]
TABLE = goal_table(GOALS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_the_table_chooses_what_the_goals_themselves_choose(seed):
    rng = np.random.default_rng(seed)
    margins = rng.normal(size=(len(GOALS), TABLE.present.type_id.shape[1])) * 3
    margins[rng.random(margins.shape) < 0.05] = np.nan
    margins = margins.astype(np.float32)
    stages = rng.integers(0, 3, len(GOALS)).astype(np.int32)
    option, stage = jax.jit(choose)(TABLE, margins, stages)
    questions, goal = aim(TABLE, option)
    for s, each in enumerate(GOALS):
        last = len(stages_of(each)) - 1
        wanted, now = by_hand(each, margins[s], min(int(stages[s]), last))
        assert now == stage[s]
        count = len(wanted.questions)
        for q, its in enumerate(wanted.questions):
            assert questions.type_id[s, q] == its.type_id
            assert tuple(questions.args[s, q].tolist()) == tuple(its.args)
        np.testing.assert_array_equal(goal.answers[s, :count], wanted.answers)
        np.testing.assert_allclose(goal.weights[s, :count], wanted.weights)
        assert not np.any(goal.weights[s, count:])


def test_a_controller_asks_about_the_sides_of_a_stage():
    """The host asks every stage's questions, and picks the right ones."""
    staged = GOALS[3]
    assert len(present_of(staged)) == 2 + 26 + 26
    assert len(options_of(staged)) == 8 + 1 + 8
    controller = Controller(get_planner("cem", **SMALL), Onlooker())
    observation = Observation(image=np.zeros((2, 4, 4, 3), np.uint8))
    goals = controller.compile([staged, PLAIN])
    option, stages = controller.choose(observation, goals, np.array([1, 0]))
    aims = goals.aims(option)
    # All margins are 0: above no threshold of going on, and not below those of
    # falling back (logits below 0).
    assert stages.tolist() == [1, 0] and aims == [PLAIN, PLAIN]


@struct.dataclass
class Pointing:
    """A world model that sees where it stands and reads the answer off the sum.

    Attributes:
      fault: added to every answer about the future.
    """

    fault: jax.Array = 0.0

    def encode(self, observation, questions):
        return observation.scene, questions.type_id

    def answer_logits(self, context, actions, horizons):
        place, kind = context
        ends = [place[:, None] + actions[:, :, :h].sum(2) for h in horizons]
        far = jnp.stack(ends, 2)[..., 0]
        yes = jnp.where(kind[:, None, None] == MOVED.type_id, -1.0, 1.0)
        yes = yes * 50.0 * (far[..., None] - 0.1)
        later = jnp.array(horizons)[:, None] > 0
        yes = yes + jnp.where(later, self.fault, 0.0)
        return jnp.stack([-yes, yes], -1)

    def answer_log_probs(self, context, actions, horizons, normalise="answers"):
        return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))


POINT = Surroundings(
    step=lambda state, action: state + action,
    scene=lambda state: state,
    observe=lambda state: Observation(
        image=jnp.zeros((state.shape[0], 1, 1, 3), jnp.uint8), scene=state
    ),
    success=lambda goal, scene: scene[:, 0] > goal,
)


@functools.cache
def point_program(planner):
    goals = [StagedGoal((Stage(PLAIN, NEAR, 0.6, 0.4), Stage(PLAIN)))] * 4
    run = make_device_loop(planner, POINT, 12)
    tasks = jnp.array([0.05, 0.2, 9.0, -1.0], jnp.float32)
    limits = jnp.array([10, 10, 7, 10], jnp.int32)
    table = goal_table(goals)
    keys = jax.random.split(jax.random.key(0), 4)
    arguments = Pointing(), table, tasks, jnp.zeros((4, 2)), limits, keys
    return jax.jit(run), arguments


def test_episodes_end_at_success_or_at_their_limit_and_stand_still():
    run, arguments = point_program(get_planner("cem", **SMALL))
    out = run(*arguments)
    x = np.asarray(out.scenes)[..., 0]
    assert x.shape == (4, 13)
    for s, (goal, limit) in enumerate(zip(arguments[2], arguments[4])):
        steps = int(out.steps[s])
        assert bool(out.success[s]) == (x[s, steps] > goal)
        assert not np.any(x[s, 1:steps] > goal)
        assert out.success[s] or steps == limit
        np.testing.assert_array_equal(x[s, steps:], x[s, steps])
        replans = -(-steps // 4)
        assert np.isfinite(out.values[s, :replans]).all()
        assert np.isnan(out.values[s, replans:]).all()
    # p(near) passes 0.6 when x is beyond 0.1: the second stage.
    for s, row in enumerate(np.asarray(out.stages)):
        for r, stage in enumerate(row):
            assert stage == (-1 if np.isnan(out.values[s, r]) else x[s, 4 * r] > 0.104)


def test_nan_answers_are_counted_by_the_option_they_were_given_to():
    run, (model, table, tasks, _, *rest) = point_program(get_planner("cem", **SMALL))
    start = jnp.array([[0.0, 0.0], [0.15, 0.0], [0.15, 0.0], [0.0, 0.0]])
    out = run(model.replace(fault=jnp.nan), table, tasks, start, *rest)
    assert set(np.asarray(out.stages).ravel()) >= {0, 1}
    assert np.isfinite(out.actions).all() and np.isneginf(out.values).any()
    stages = np.asarray(out.stages)
    for option in range(2):
        seen = 4 * 2 * (stages == option).sum(1)  # candidates x iterations
        for question_ in range(len(PLAIN.questions)):
            assert out.nan_answers[:, option, question_].tolist() == seen.tolist()
    np.testing.assert_array_equal(out.nan_candidates, 8 * (stages >= 0).sum(1))


def test_a_step_of_the_host_is_a_step_of_the_program():
    """The same planner, key and states, one replan after the other on the host."""
    planner = get_planner("cem", **SMALL)
    run, arguments = point_program(planner)
    model, table, tasks, state, _, keys = arguments
    out = run(model, table, tasks + 9.0, state, jnp.full(4, 12), keys)
    goals = [StagedGoal((Stage(PLAIN, NEAR, 0.6, 0.4), Stage(PLAIN)))] * 4
    controller, plans = Controller(planner, model), planner.init_state(4)
    for replan in range(3):
        observation = POINT.observe(state)
        chunk, plans, info = controller.replan(
            observation, goals, plans, fold_in_each(keys, jnp.full(4, replan))
        )
        np.testing.assert_allclose(out.values[:, replan], info.value, rtol=1e-5)
        for t in range(4):
            state = state + chunk[:, t]
            at = out.scenes[:, 4 * replan + t + 1]
            np.testing.assert_allclose(at, state, rtol=1e-5, atol=1e-6)


def test_tasks_are_won_on_the_device_as_they_are_on_the_host():
    names = ["reach", "separate", "block_to_block"] * 6
    tasks = [make_task(name, seed=seed) for seed, name in enumerate(names)]
    rng = np.random.default_rng(0)
    here = Scene(
        block_pose=rng.uniform(0.3, 0.4, (18, 8, 3)).astype(np.float32),
        block_id=np.tile(np.arange(8, dtype=np.int32), (18, 1)),
        peg=rng.uniform(0.3, 0.4, (18, 2)).astype(np.float32),
    )
    world = worlds.load("board")
    won = tasks_won(world, task_arrays(world, tasks), here)
    each = [
        t.success(jax.tree.map(lambda x, i=i: x[i], here)) for i, t in enumerate(tasks)
    ]
    assert won.tolist() == [bool(x) for x in each]
    assert 0 < sum(won.tolist()) < len(tasks)


def test_physics_on_the_host_are_refused():
    with pytest.raises(ValueError, match="backend is 'mujoco', expected 'mjx'"):
        surroundings(Setup(worlds.load_env(backend="mujoco"), None, None, None))


def same_episodes(device, host):
    for a, b in zip(device, host):
        assert (a.task, a.seed, a.blocks) == (b.task, b.seed, b.blocks)
        assert (a.success, a.steps) == (b.success, b.steps)
        assert a.nan_candidates == b.nan_candidates
        np.testing.assert_allclose(a.values, b.values, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(a.scenes.peg, b.scenes.peg, atol=2e-5)
        np.testing.assert_allclose(a.actions, b.actions, atol=2e-5)
        np.testing.assert_allclose(
            a.scenes.block_pose[..., :2], b.scenes.block_pose[..., :2], atol=1e-4
        )


@struct.dataclass
class Blinking(Onlooker):
    """Does not know about chunks that begin to the right."""

    def answer_logits(self, context, actions, horizons):
        logits = super().answer_logits(context, actions, horizons)
        lost = actions[:, :, 0, 0] > 0.01
        return jnp.where(lost[..., None, None, None], jnp.nan, logits)


def test_board_episodes_from_pixels_are_those_of_the_host_loop():
    env = worlds.load_env(backend="mjx", physics_dt=0.05, iterations=1)
    tasks = [("reach", 5003), ("block_to_block", 5004)]
    arguments = env, tasks, Blinking(), get_planner("cem", **SMALL), jax.random.key(0)
    options = dict(image_size=(8, 8), max_steps=6, parallel=2)
    results, said = [], []
    for run in (run_on_device, run_episodes):
        with pytest.warns(UserWarning, match="are ignored") as caught:
            results.append(run(*arguments, **options))
        said.append({str(each.message) for each in caught})
    same_episodes(*results)
    assert said[0] == said[1]
    assert all(each.nan_candidates > 0 for each in results[0])


def test_an_episode_on_the_device_does_not_depend_on_its_group():
    """Groups of the device's loop are packed otherwise than the host's slots."""
    env = worlds.load_env(backend="mjx", physics_dt=0.05, iterations=1)
    tasks = [("reach", seed) for seed in (5003, 5004, 5005)]
    planner = get_planner("cem", **SMALL)
    options = dict(image_size=(8, 8), max_steps=6)
    run = lambda run, tasks, parallel: run(
        env, tasks, Onlooker(), planner, jax.random.key(0), parallel=parallel, **options
    )
    device = run(run_on_device, tasks, 2)
    same_episodes(device, run(run_episodes, tasks, 1))
    same_episodes(run(run_on_device, tasks[::-1], 2)[::-1], device)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5000, 5001])
def test_the_simulator_wins_the_same_episodes_on_the_device(seed):
    from swm_jax.baselines.simulator import SimulatorWorldModel

    env = worlds.load_env(backend="mjx", physics_dt=0.02, iterations=2)
    planner = get_planner("mppi", candidates=16, iterations=2, execute=8)
    model = SimulatorWorldModel(env)
    arguments = env, [("reach", seed)], model, planner, jax.random.key(1)
    options = dict(max_steps=48, parallel=1)
    device = run_on_device(*arguments, **options)
    same_episodes(device, run_episodes(*arguments, **options))
    assert device[0].success and device[0].steps < 48


def test_the_program_compiles_from_shapes_alone():
    """What a compiler for another machine is given."""
    env = worlds.load_env(backend="mjx")
    setup = Setup(
        env,
        Onlooker(),
        get_planner("cem", **SMALL),
        jax.random.key(0),
        image_size=(8, 8),
        max_steps=8,
    )
    prepared = setup.prepare([("reach", 5000), ("separate", 5001)])
    run, arguments = episode_program(setup, prepared, range(2))
    shapes = jax.eval_shape(lambda *x: x, *arguments)
    program, out = jax.make_jaxpr(run, return_shape=True)(*shapes)
    assert out.scenes.peg.shape == (2, 9, 2) and out.values.shape == (2, 2)
    assert "callback" not in str(program)
