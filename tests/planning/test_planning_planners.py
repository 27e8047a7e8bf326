"""Planners on the fake world model, whose best plan and values are known."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hypothesis import given
from hypothesis import strategies as st

from swm_jax.models import Observation, QuestionBatch
from swm_jax.planning import (
    PLANNERS,
    FakeWorldModel,
    GoalArrays,
    PlannerConfig,
    get_planner,
    planner,
    shift,
)
from swm_jax.planning.planners.sampling import refit_cem, refit_mppi, softmax_weights

SEARCHERS = ("mppi", "cem", "icem", "best_of_n", "random_shooting")
TARGET = np.array([0.2, -0.1], np.float32)  # 7 of 16 steps away


def asked(scenes=3, count=2):
    tokens = jnp.ones((scenes, count, 4), jnp.int32)
    return QuestionBatch(
        tokens=tokens,
        mask=tokens > 0,
        type_id=jnp.zeros((scenes, count), jnp.int32),
        args=jnp.zeros((scenes, count, 3), jnp.int32),
        answer_ids=jnp.broadcast_to(jnp.array([5, 6]), (scenes, count, 2)),
    )


def wanted(scenes=3, count=2):
    return GoalArrays(jnp.ones((scenes, count), jnp.int32), jnp.ones((scenes, count)))


def replan(name, key=0, model=None, scenes=3, state=None, proposals=None, **settings):
    chosen = get_planner(name, **settings)
    model = model or FakeWorldModel(goal=jnp.array(TARGET))
    observation = Observation(image=jnp.zeros((scenes, 8, 8, 3), jnp.uint8))
    state = chosen.init_state(scenes) if state is None else state
    return chosen.plan(
        model,
        observation,
        asked(scenes),
        wanted(scenes),
        state,
        jax.random.key(key),
        proposals,
    )


@pytest.mark.parametrize("name", ("mppi", "cem", "icem"))
def test_planner_reaches_the_known_optimum(name):
    actions, _, info = replan(name, candidates=128, iterations=8)
    assert actions.shape == (3, 16, 2)
    for steps in (8, 16):  # best: be at the target after either sub-chunk
        reached = np.asarray(actions)[:, :steps].sum(1)
        assert np.linalg.norm(reached - TARGET, axis=1).max() < 0.02
    optimum = 2 * 2 * -np.log1p(np.exp(-1.0))
    assert np.all(np.asarray(info.value) <= optimum + 1e-4)
    assert np.all(np.asarray(info.value) > optimum - 0.6)


@pytest.mark.parametrize("name", SEARCHERS)
def test_planner_beats_random_actions_with_the_same_model(name):
    value = lambda actions: -np.linalg.norm(np.asarray(actions).sum(1) - TARGET, axis=1)
    planned, _, _ = replan(name)
    random, _, _ = replan("random")
    assert value(planned).min() > value(random).max()


@pytest.mark.parametrize("name", ("cem", "mppi_published", "random"))
def test_same_key_same_plan_and_inside_the_box(name):
    first, _, _ = replan(name, key=4)
    again, _, _ = replan(name, key=4)
    other, _, _ = replan(name, key=5)
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != np.asarray(other))
    assert np.abs(first).max() <= 0.03 + 1e-7


def test_more_iterations_never_lose_what_is_kept():
    _, _, info = replan("cem", iterations=6)
    assert np.all(np.diff(np.asarray(info.best), axis=0) >= -1e-5)
    np.testing.assert_allclose(info.value, np.asarray(info.values).max(1))


def test_replans_and_new_parameters_do_not_recompile():
    replan("mppi", candidates=24)
    before = planner._plan._cache_size()
    state = None
    for key in range(3):
        model = FakeWorldModel(goal=jnp.array([0.01 * key, 0.1]))
        _, state, _ = replan("mppi", key, model, candidates=24, state=state)
    assert planner._plan._cache_size() == before


@given(st.integers(1, 16), st.integers(0, 2**31 - 1))
def test_warm_start_is_the_plan_shifted_by_what_was_executed(execute, seed):
    plan = np.random.default_rng(seed).normal(size=(2, 16, 2)).astype(np.float32)
    state = shift(jnp.array(plan), execute, PlannerConfig())
    for scene in range(2):
        left = [*plan[scene, execute:], *[plan[scene, -1]] * execute]
        np.testing.assert_array_equal(state.plan[scene], left)
    assert bool(state.warm.all())
    cold = shift(jnp.array(plan), execute, PlannerConfig(warm_start=False))
    assert not cold.warm.any()


def test_the_state_holds_the_shifted_plan_and_the_shifted_plan_is_a_candidate():
    actions, state, _ = replan("cem")
    np.testing.assert_array_equal(state.plan[:, :12], np.asarray(actions)[:, 4:])
    # With nothing else allowed to be better (spread zero, no strokes) the planner
    # returns it or standing still.
    again, _, _ = replan(
        "best_of_n", state=state, candidates=8, init_std=0.0, stroke_fraction=0.0,
    )  # fmt: skip
    for scene in range(3):
        same = np.allclose(again[scene], state.plan[scene])
        assert same or np.allclose(again[scene], 0.0)


def test_warm_start_begins_where_the_last_plan_ended():
    promised = lambda at: -np.logaddexp(0, np.sum((at - TARGET) ** 2) / 1e-3 - 1)
    gains = []
    for key in range(4):
        actions, state, _ = replan("cem", key, scenes=1)
        plan = np.asarray(actions)[0]
        left = FakeWorldModel(goal=jnp.array(TARGET - plan[:4].sum(0)))
        _, _, cold = replan("cem", key + 1, left, scenes=1)
        _, _, warm = replan("cem", key + 1, left, scenes=1, state=state)
        gains.append(float(warm.best[0, 0] - cold.best[0, 0]))
        # At least as good as what is left of the old plan, its last action repeated.
        old = promised(plan[:12].sum(0)) + promised(plan.sum(0) + 4 * plan[-1])
        assert warm.best[0, 0] >= 2 * old - 1e-3
    assert np.mean(gains) > 0 and min(gains) >= 0


def test_proposals_of_a_base_policy_are_candidates():
    chosen = get_planner("best_of_n")
    perfect = np.zeros((3, 1, 16, 2), np.float32)
    perfect[:, :, :8] = TARGET / 8
    actions, _, _ = chosen.plan(
        FakeWorldModel(goal=jnp.array(TARGET)),
        Observation(image=jnp.zeros((3, 8, 8, 3), jnp.uint8)),
        asked(),
        wanted(),
        chosen.init_state(3),
        jax.random.key(0),
        proposals=jnp.array(perfect),
    )
    np.testing.assert_allclose(actions, perfect[:, 0], rtol=1e-6)


@given(st.integers(0, 2**31 - 1), st.floats(0.1, 3.0))
def test_mppi_refit_is_the_closed_form(seed, temperature):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 7)).astype(np.float32)
    candidates = rng.normal(size=(2, 7, 3, 2)).astype(np.float32)
    config = PlannerConfig(
        candidates=8, temperature=temperature, temperature_unit="value"
    )
    last = jnp.zeros(candidates.shape[:1] + candidates.shape[2:])
    mean, std = refit_mppi(jnp.array(candidates), jnp.array(values), last, last, config)
    for scene in range(2):
        w = np.exp(values[scene].astype(np.float64) / temperature)
        w /= w.sum()
        m = sum(w[n] * candidates[scene, n] for n in range(7))
        v = sum(w[n] * (candidates[scene, n] - m) ** 2 for n in range(7))
        np.testing.assert_allclose(mean[scene], m, atol=1e-4)
        np.testing.assert_allclose(std[scene], np.sqrt(v), atol=1e-3)


@given(st.integers(0, 2**31 - 1), st.floats(0.1, 100.0), st.floats(-50.0, 50.0))
def test_mppi_in_units_of_spread_ignores_scale_and_shift(seed, scale, offset):
    values = np.random.default_rng(seed).normal(size=(1, 16)).astype(np.float32)
    config = PlannerConfig(candidates=16, temperature_unit="spread")
    one = softmax_weights(jnp.array(values), config)
    two = softmax_weights(jnp.array(values * scale + offset), config)
    np.testing.assert_allclose(one, two, atol=5e-3)


def test_cem_refit_uses_exactly_the_elites():
    values = jnp.array([[3.0, -jnp.inf, 5.0, 1.0, 4.0]])
    candidates = np.arange(5 * 2, dtype=np.float32).reshape(1, 5, 2, 1)
    config = PlannerConfig(candidates=8, keep=2, elites=3, momentum=0.0)
    zero = jnp.zeros((1, 2, 1))
    mean, std = refit_cem(jnp.array(candidates), values, zero, zero, config)
    elites = candidates[0, [0, 2, 4]]
    np.testing.assert_allclose(mean[0], elites.mean(0))
    np.testing.assert_allclose(std[0], elites.std(0), rtol=1e-6)
    half = PlannerConfig(candidates=8, keep=2, elites=3, momentum=0.5)
    mean, _ = refit_cem(jnp.array(candidates), values, zero + 2.0, zero, half)
    np.testing.assert_allclose(mean[0], 0.5 * elites.mean(0) + 1.0)


@struct.dataclass
class Blind:
    """Says NaN whenever the first action goes right, or always."""

    inner: FakeWorldModel
    always: bool = struct.field(pytree_node=False, default=False)

    def encode(self, observation, questions):
        return self.inner.encode(observation, questions)

    def answer_logits(self, context, actions, horizons):
        logits = self.inner.answer_logits(context, actions, horizons)
        bad = (actions[:, :, 0, 0] > 0) | self.always
        return jnp.where(bad[:, :, None, None, None], jnp.nan, logits)

    def answer_log_probs(self, context, actions, horizons, normalise="answers"):
        return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))


@pytest.mark.parametrize("name", SEARCHERS)
def test_candidates_with_nan_answers_are_ignored_and_counted(name):
    model = FakeWorldModel(goal=jnp.array([-0.1, 0.0]))
    actions, _, info = replan(name, model=Blind(model))
    assert np.isfinite(info.value).all() and np.isfinite(actions).all()
    assert np.all(np.asarray(actions)[:, 0, 0] <= 0)
    last = (np.asarray(info.candidates)[:, :, 0, 0] > 0).sum(1)
    assert np.all(np.asarray(info.nan_candidates) >= np.maximum(last, 1))
    np.testing.assert_array_equal(np.isneginf(info.values).sum(1), last)


@pytest.mark.parametrize("name", SEARCHERS)
def test_a_world_model_that_only_says_nan_leaves_finite_actions(name):
    model = FakeWorldModel(goal=jnp.array([-0.1, 0.0]))
    actions, _, info = replan(name, model=Blind(model, always=True))
    config = get_planner(name).config
    assert np.isfinite(actions).all()
    assert np.all(np.asarray(info.nan_candidates) == config.candidates_per_replan)


def test_published_settings_are_available_by_name():
    config = get_planner("mppi_published").config
    assert (config.candidates, config.iterations, config.temperature) == (64, 10, 1.5)
    assert config.score == "probability" and config.normalise == "vocabulary"
    assert config.horizons == (8, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_planner("mpi"), "unknown planner 'mpi' (did you mean 'mppi'"),
        (lambda: get_planner("cem", elite=3), "did you mean 'elites'"),
        (lambda: get_planner("cem", horizon=12), "horizon 12 must be a multiple"),
        (lambda: get_planner("cem", score="logit"), "unknown score 'logit'"),
        (lambda: get_planner("cem", action_limit=0.0), "action_limit must be positive"),
        (lambda: get_planner("mppi", temperature=0.0), "temperature must be positive"),
        (lambda: get_planner("cem", candidates=4), "candidates 4 must be >= elites 8"),
        (lambda: get_planner("cem", candidates=64.5), "whole number, got 64.5"),
        (lambda: get_planner("cem", momentum="0.1"), "a number, got '0.1'"),
        (lambda: get_planner("cem", noise_exponent=np.nan), "noise_exponent must be"),
    ],
)
def test_bad_settings_are_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("random", "candidates", 8),
        ("mppi", "elites", 4),
        ("cem", "temperature", 1.0),
        ("cem", "margin_scale", 2.0),
        ("best_of_n", "around_kept", 0.1),
        ("best_of_proposals", "stroke_fraction", 0.1),
        ("gradient", "keep", 2),
        ("gradient_published", "noise_exponent", 1.0),
    ],
)
def test_a_setting_that_a_planner_does_not_use_is_refused(name, field, value):
    with pytest.raises(ValueError, match=f"{name!r} does not use {field};") as caught:
        get_planner(name, **{field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ("mppi", "cem", "gradient", "random_shooting"))
def test_settings_that_a_planner_does_not_use_change_no_plan(name):
    """The list of used settings against what planners do."""
    other = dict(
        init_std=0.011, min_std=0.017, noise_exponent=0.7, stroke_fraction=0.71,
        fresh_fraction=0.61, keep=1, mean_last=True, around_kept=0.83, temperature=7.0,
        elites=1, momentum=0.77, learning_rate=0.0077, gradient_clip=0.013,
        margin_scale=1.0, best_seen=False,
    )  # fmt: skip
    chosen = get_planner(name, candidates=8, iterations=1 if "shoot" in name else 2)
    used = PLANNERS[name].used_settings()
    unused = {field: value for field, value in other.items() if field not in used}
    changed = dataclasses.replace(chosen.config, **unused)
    model = FakeWorldModel(goal=jnp.array(TARGET))
    seen = Observation(image=jnp.zeros((3, 8, 8, 3), jnp.uint8))
    plans = [
        each.plan(model, seen, asked(), wanted(), each.init_state(3), jax.random.key(0))
        for each in (chosen, dataclasses.replace(chosen, config=changed))
    ]
    assert len(unused) > 3
    np.testing.assert_array_equal(plans[0][0], plans[1][0])


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (GoalArrays(jnp.ones((3, 0), int), jnp.ones((3, 0))), "without questions"),
        (GoalArrays(jnp.ones((3, 2), int), jnp.zeros((3, 2))), "scene 0 are zero"),
        (GoalArrays(jnp.ones((3, 2), int), jnp.full((3, 2), jnp.nan)), "finite"),
        (GoalArrays(jnp.ones((3, 4), int), jnp.ones((3, 4))), "goal answers are"),
        (GoalArrays(jnp.ones((3, 2), int), jnp.ones((3, 1))), r"\[S, Q\]"),
        (GoalArrays(jnp.full((3, 2), 2), jnp.ones((3, 2))), "2, expected 0 to 1"),
        (GoalArrays(jnp.full((3, 2), -1), jnp.ones((3, 2))), "-1, expected 0 to 1"),
    ],
)
def test_bad_goals_are_named_in_one_line(goal, message):
    chosen = get_planner("mppi")
    with pytest.raises(ValueError, match=message) as caught:
        chosen.plan(
            FakeWorldModel(goal=jnp.array(TARGET)),
            Observation(image=jnp.zeros((3, 8, 8, 3), jnp.uint8)),
            asked(),
            goal,
            chosen.init_state(3),
            jax.random.key(0),
        )
    assert "\n" not in str(caught.value)


def test_pictures_of_another_number_of_scenes_are_refused():
    chosen, model = get_planner("cem"), FakeWorldModel(goal=jnp.array(TARGET))
    seen = Observation(image=jnp.zeros((2, 8, 8, 3), jnp.uint8))
    rest = asked(), wanted(), chosen.init_state(3), jax.random.key(0)
    with pytest.raises(ValueError, match="2 images for 3 scenes"):
        chosen.plan(model, seen, *rest)


def test_a_state_of_another_planner_is_refused():
    other = get_planner("cem", action_size=5).init_state(3)
    with pytest.raises(ValueError, match=r"plans \(3, 16, 5\), expected \(3, 16, 2\)"):
        replan("cem", state=other)
