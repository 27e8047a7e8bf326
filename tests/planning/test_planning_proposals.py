"""Where planners start: proposals of a policy, carried plans, and iCEM's tricks."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from test_planning_planners import TARGET, Blind, replan

from swm_jax import worlds
from swm_jax.models import Observation
from swm_jax.planning import FakeWorldModel, PlannerConfig, get_planner
from swm_jax.planning.controller import Controller
from swm_jax.planning.noise import coloured_noise, scene_keys
from swm_jax.planning.planners.sampling import refit_mppi
from swm_jax.planning.population import first_population
from swm_jax.planning.search import Problem, search
from swm_jax.planning.state import blank_state, shift
from swm_jax.questions import Stage, StagedGoal
from swm_jax.worlds.board.goals import goal_for_task

BOARD = worlds.language("board")

KEY = jax.random.key(0)
KEYS = scene_keys(KEY, 3)
SEARCHERS = ("mppi", "icem", "best_of_n", "best_of_proposals", "hybrid", "gradient")


def draw(count=3, seed=0, limit=0.03):
    shape = (3, count, 16, 2)
    return np.random.default_rng(seed).uniform(-limit, limit, shape).astype(np.float32)


def perfect():
    chunk = np.zeros((3, 1, 16, 2), np.float32)
    chunk[:, :, :8] = TARGET / 8
    return chunk


@struct.dataclass
class Policy:
    """A policy with a parameter: always the same step."""

    step: jax.Array

    def __call__(self, observation, key):
        scenes = observation.image.shape[0]
        return jnp.broadcast_to(self.step, (scenes, 2, 16, 2))


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_perfect_proposal_is_never_lost(name):
    _, _, info = replan(name, proposals=perfect())
    optimum = 2 * 2 * -np.log1p(np.exp(-1.0))  # at the target after both sub-chunks
    if name == "mppi":  # executes the best of the last population, which keeps it
        assert get_planner(name).config.keep > 0
    np.testing.assert_allclose(info.value, optimum, atol=1e-4)


def test_proposals_may_be_an_array_a_function_or_a_policy_with_parameters():
    step = jnp.array(TARGET / 16)
    chunks = jnp.broadcast_to(step, (3, 2, 16, 2))
    by_function = lambda observation, key: np.asarray(chunks)
    by_partial = jax.tree_util.Partial(lambda step, o, k: chunks + 0 * step, step)
    plans = [
        replan("best_of_proposals", proposals=each, candidates=2)[0]
        for each in (chunks, by_function, Policy(step), by_partial)
    ]
    for plan in plans:
        np.testing.assert_allclose(plan, chunks[:, 0], rtol=1e-6)


@pytest.mark.parametrize("name", ("mppi", "best_of_proposals", "gradient"))
def test_proposals_outside_the_limits_are_clamped_and_counted(name):
    proposals = draw()
    proposals[0, 1, 3, 0] = 0.2
    proposals[2, 0, 0, 1] = np.nan
    proposals[2, 1, 5, 0] = -np.inf
    actions, _, info = replan(name, proposals=proposals)
    assert info.clamped_proposals.tolist() == [1, 0, 2]
    assert np.isfinite(info.candidates).all() and np.isfinite(info.value).all()
    assert np.abs(info.candidates).max() <= 0.03 + 1e-7
    assert np.abs(actions).max() <= 0.03 + 1e-7


@pytest.mark.parametrize(
    ("proposals", "settings", "message"),
    [
        (None, {}, "needs proposals of a base policy"),
        (draw(5), {"candidates": 4}, "5 proposals .* expected 1 to 4"),
        (draw()[0], {}, r"proposals are \(3, 16, 2\), expected \(3, 'M', 16, 2\)"),
        (draw()[:, :, :8], {}, r"proposals are \(3, 3, 8, 2\)"),
        (lambda observation, key: draw()[:1], {}, r"proposals are \(1, 3, 16, 2\)"),
    ],
)
def test_impossible_proposals_are_refused_in_one_line(proposals, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        replan("best_of_proposals", proposals=proposals, **settings)
    assert "\n" not in str(caught.value)


def test_published_mppi_starts_from_the_proposals_alone_if_there_are_enough():
    config = get_planner("mppi_published", candidates=3).config
    population = first_population(KEYS, blank_state(3, config), config, draw())
    np.testing.assert_array_equal(population, draw())


def test_too_few_proposals_are_surrounded_by_noise():
    config = get_planner("best_of_proposals", candidates=9).config
    population = np.asarray(
        first_population(KEYS, blank_state(3, config), config, draw(limit=0.001))
    )
    np.testing.assert_array_equal(population[:, :3], draw(limit=0.001))
    away = population[:, 3:].reshape(3, 2, 3, 16, 2) - population[:, None, :3]
    assert 0.5 * config.init_std < away.std() < config.init_std


def test_carried_elites_return_shifted_in_the_next_first_population():
    _, state, info = replan("icem")
    config = get_planner("icem").config
    order = np.argsort(-np.asarray(info.values), 1)[:, :3]
    for s in range(3):
        for e, n in enumerate(order[s]):
            chunk = np.asarray(info.candidates)[s, n]
            left = [*chunk[config.execute :], *[chunk[-1]] * config.execute]
            np.testing.assert_array_equal(state.kept[s, e], left)
    mixed = state.replace(warm=jnp.array([True, False, True]))
    first = np.asarray(first_population(KEYS, mixed, config))
    for s in range(3):
        there = np.array_equal(first[s, 2:5], state.kept[s])
        assert there == (s != 1)  # a new scene knows nothing of the one before


def test_the_mean_is_a_candidate_of_the_last_population_only():
    config = get_planner("icem", candidates=12, iterations=3, keep=2).config
    seen = []

    def evaluate(actions):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), actions, ordered=True)
        return actions.sum((2, 3)), jnp.zeros((*actions.shape[:2], 1), bool)

    centre = jnp.full((1, 16, 2), 0.0123)
    refit = lambda candidates, values, mean, std, config: (centre, std)
    state = blank_state(1, config)
    search(Problem(evaluate, evaluate), state, KEYS[:1], config, refit=refit)
    jax.effects_barrier()
    holds = [
        any(np.allclose(c, centre[0]) for c in population[0]) for population in seen
    ]
    assert holds == [False, False, True]


def test_a_search_is_the_slow_loop_over_candidates():
    """Two iterations of MPPI, one candidate and one number at a time."""
    config = PlannerConfig(
        horizon=4, sub_chunk=2, candidates=6, iterations=2, execute=1, keep=0, elites=0,
        temperature=0.7, temperature_unit="value", noise_exponent=0.0, min_std=0.0,
    )  # fmt: skip
    goal = np.array([0.05, -0.02])
    cost = lambda x: -((x.sum(2) - goal) ** 2).sum(-1) * 1e3
    none = lambda x: jnp.zeros((*x.shape[:2], 1), bool)
    problem = Problem(lambda x: (cost(x), none(x)), None)
    state = blank_state(2, config)
    plan, info = search(problem, state, KEYS[:2], config, refit=refit_mppi)
    start, rest = jax.vmap(jax.random.split, out_axes=1)(KEYS[:2])
    first = np.asarray(first_population(start, state, config), np.float64)
    turns = [jax.random.split(key, 2)[0] for key in rest]
    noise = [coloured_noise(turn, (6, 4, 2), 0.0) for turn in turns]
    noise = np.asarray(noise, np.float64)
    for s in range(2):
        values = [
            -sum((sum(first[s, n, t, a] for t in range(4)) - goal[a]) ** 2
                 for a in range(2)) * 1e3
            for n in range(6)
        ]  # fmt: skip
        weight = np.exp((np.array(values) - max(values)) / 0.7)
        weight /= weight.sum()
        second = np.zeros((6, 4, 2))
        for t in range(4):
            for a in range(2):
                mean = sum(weight[n] * first[s, n, t, a] for n in range(6))
                var = sum(weight[n] * (first[s, n, t, a] - mean) ** 2 for n in range(6))
                for n in range(6):
                    x = mean + min(var**0.5, 0.03) * noise[s, n, t, a]
                    second[n, t, a] = min(max(x, -0.03), 0.03)
        np.testing.assert_allclose(info.candidates[s], second, atol=1e-6)
        best = np.argmax([cost(second[None, n : n + 1])[0, 0] for n in range(6)])
        np.testing.assert_allclose(plan[s], second[best], atol=1e-6)


# The controller, which knows the words, says what went wrong.

OBSERVATION = Observation(image=np.zeros((1, 4, 4, 3), np.uint8))
REACH = goal_for_task("reach", ("red moon",))
SMALL = dict(candidates=8, iterations=1, keep=2, elites=2)


@pytest.mark.parametrize(
    ("model", "policy", "message"),
    [
        (Blind(FakeWorldModel(jnp.zeros(2)), always=True), None,
         "NaN .* 'Is the peg touching the red moon?'; candidates .* are ignored"),
        (FakeWorldModel(jnp.zeros(2)), lambda o, k: np.full((1, 2, 16, 2), 0.05),
         r"leave the action limits of \+-0.03 and are clamped"),
    ],
)  # fmt: skip
def test_trouble_is_named_once(model, policy, message):
    controller = Controller(get_planner("cem", **SMALL), model, policy=policy)
    state = controller.planner.init_state(1)
    with warnings.catch_warnings(record=True):
        controller.replan(OBSERVATION, [REACH], state, KEY)  # compiles
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            chunk, state, _ = controller.replan(OBSERVATION, [REACH], state, KEY)
            assert np.isfinite(chunk).all() and np.abs(chunk).max() <= 0.03 + 1e-7
    said = [w for w in said if w.category is UserWarning]  # not those of a collection
    assert len(said) == 1, [str(w.message) for w in said]
    with pytest.warns(UserWarning, match=message.replace("?", r"\?")):
        controller.replan(OBSERVATION, [REACH], state, KEY)


@struct.dataclass
class Says:
    """A world model that gives one margin for everything it is asked."""

    margin: jax.Array

    def encode(self, observation, questions):
        return jnp.zeros(questions.type_id.shape)

    def answer_logits(self, context, actions, horizons):
        yes = context[:, None, None] + self.margin
        yes = yes + 0.0 * actions.sum((2, 3))[:, :, None, None]
        yes = jnp.broadcast_to(yes, (*actions.shape[:2], len(horizons), yes.shape[-1]))
        return jnp.stack([jnp.zeros_like(yes), yes], -1)

    def answer_log_probs(self, context, actions, horizons, normalise="answers"):
        return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))


def test_the_planner_state_remembers_the_stage_between_replans():
    near = BOARD.question("peg_touching", "red moon")
    staged = StagedGoal(
        (Stage(REACH, near), Stage(goal_for_task("reach", ("blue cube",))))
    )
    planner = get_planner("best_of_n", candidates=4)
    state, stages = planner.init_state(2), []
    observation = Observation(image=np.zeros((2, 4, 4, 3), np.uint8))
    for p in (0.1, 0.95, 0.7, 0.2, 0.7):
        model = Says(jnp.log(p / (1 - p)))
        controller = Controller(planner, model)
        _, state, _ = controller.replan(observation, [staged, REACH], state, KEY)
        stages.append(state.stage.tolist())
    assert stages == [[0, 0], [1, 0], [1, 0], [0, 0], [0, 0]]


def test_a_shifted_state_keeps_its_stage():
    stage = jnp.array([2, 0, 1])
    state = shift(jnp.zeros((3, 16, 2)), 4, PlannerConfig(), stage=stage)
    np.testing.assert_array_equal(state.stage, stage)
