"""Gradient planners against float64 finite differences and closed forms."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micro_models import quick_jit
from micro_scoring import case, world_model
from test_planning_planners import TARGET, Blind, replan

from swm_jax import worlds
from swm_jax.baselines.simulator import SimulatorWorldModel
from swm_jax.planning import (
    FakeWorldModel,
    PlannerConfig,
    chunk_value,
    desired_scores,
    get_planner,
)
from swm_jax.planning.protocol import check_differentiable

SMALL = dict(horizon=4, sub_chunk=2, execute=2, carry=0)
GOAL = np.array([0.05, -0.02])  # within reach of two actions of 0.03


def value(actions, score):
    """Value of chunks [..., 4, 2] for two equal questions, in float64, by hand."""
    total = 0.0
    for h in (2, 4):
        margin = 1 - ((actions[..., :h, :].sum(-2) - GOAL) ** 2).sum(-1) / 1e-3
        total += {
            "margin": margin,
            "tanh_margin": np.tanh(margin / 4),
            "probability": 1 / (1 + np.exp(-margin)),
            "log_probability": -np.logaddexp(0, -margin),
        }[score]
    return 2 * total


def slope(actions, score, step=1e-6):
    """Gradient of `value` for every chunk by central differences."""
    gradient = np.zeros_like(actions)
    for t, a in itertools.product(range(4), range(2)):
        up, down = actions.copy(), actions.copy()
        up[..., t, a] += step
        down[..., t, a] -= step
        gradient[..., t, a] = (value(up, score) - value(down, score)) / (2 * step)
    return gradient


def climb(starts, score, rate, clip, steps, limit=0.03):
    """Projected ascent, every chunk by itself."""
    actions = starts.astype(np.float64)
    for _ in range(steps):
        gradient = slope(actions, score)
        norm = np.sqrt((gradient**2).sum((-1, -2), keepdims=True))
        gradient = gradient * np.minimum(1.0, clip / np.maximum(norm, 1e-30))
        actions = np.clip(actions + rate * gradient, -limit, limit)
    return actions


@pytest.mark.parametrize("score", ("probability", "log_probability", "margin"))
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31 - 1))
def test_plain_ascent_follows_the_finite_differences(score, seed):
    starts = np.random.default_rng(seed).uniform(-0.04, 0.04, (2, 3, 4, 2))
    _, _, info = replan(
        "gradient", model=FakeWorldModel(goal=jnp.array(GOAL)), scenes=2,
        proposals=starts.astype(np.float32), candidates=3, iterations=4,
        objective=score, optimizer="sgd", learning_rate=0.005, gradient_clip=1.0,
        best_seen=False, **SMALL,
    )  # fmt: skip
    expected = climb(np.clip(starts, -0.03, 0.03), score, 0.005, 1.0, 4)
    np.testing.assert_allclose(info.candidates, expected, atol=2e-5)
    np.testing.assert_allclose(
        info.values, value(expected, "log_probability"), atol=2e-2
    )
    outside = (np.abs(starts) > 0.03).any((2, 3)).sum(1)
    np.testing.assert_array_equal(info.clamped_proposals, outside)


@pytest.mark.parametrize("name", ("gradient", "hybrid"))
def test_ascent_on_the_margin_reaches_the_optimum(name):
    few = dict(elites=4, keep=2) if name == "hybrid" else {}
    actions, _, info = replan(
        name, model=FakeWorldModel(goal=jnp.array(GOAL)), scenes=2, score="margin",
        candidates=8, iterations=24, learning_rate=0.003, **few, **SMALL,
    )  # fmt: skip
    assert np.all(np.asarray(info.value) > 4 - 0.15)  # 2 questions x 2 horizons x 1
    for h in (2, 4):
        reached = np.asarray(actions)[:, :h].sum(1)
        assert np.linalg.norm(reached - GOAL, axis=1).max() < 0.012
    assert np.abs(actions).max() <= 0.03 + 1e-7


def test_margins_climb_where_probabilities_are_flat():
    far = FakeWorldModel(goal=jnp.array(GOAL), scale=2e-5)  # p(yes) is about e^-145
    start = np.zeros((2, 1, 4, 2), np.float32)
    move = lambda objective: np.abs(
        replan(
            "gradient", model=far, scenes=2, proposals=start, candidates=1,
            objective=objective, optimizer="sgd", learning_rate=1e-6, iterations=2,
            best_seen=False, **SMALL,
        )[0]
    ).max()  # fmt: skip
    assert move("probability") == 0.0
    assert move("margin") > 1e-4


def test_a_hybrid_is_never_worse_than_its_search():
    for key in range(3):
        _, _, info = replan(
            "hybrid", key, candidates=16, iterations=2, learning_rate=0.02
        )
        searched = np.asarray(info.best)[:2].max(0)
        assert np.all(np.asarray(info.value) >= searched - 1e-5)
        assert info.best.shape == (2 + 6, 3)  # iterations, then steps


def test_the_best_of_the_way_is_not_lost_by_a_step_too_far():
    way = replan("gradient", iterations=6, learning_rate=0.05)[2].value
    end = replan("gradient", iterations=6, learning_rate=0.05, best_seen=False)[2].value
    assert np.all(np.asarray(way) >= np.asarray(end) - 1e-6)


@pytest.mark.parametrize("name", ("gradient", "hybrid"))
@pytest.mark.parametrize("always", (False, True))
def test_starts_with_nan_answers_stay_and_are_counted(name, always):
    model = Blind(FakeWorldModel(goal=jnp.array([-0.1, 0.0])), always=always)
    actions, _, info = replan(name, model=model)
    assert np.isfinite(actions).all() and np.isfinite(info.candidates).all()
    assert np.all(np.asarray(info.nan_candidates) > 0)
    assert np.all(np.isfinite(info.value)) != always
    # Both questions were answered NaN, whenever one was.
    np.testing.assert_array_equal(info.nan_answers[:, 0], info.nan_candidates)
    if not always:
        assert np.all(np.asarray(actions)[:, 0, 0] <= 0)


@dataclasses.dataclass
class Opaque:
    differentiable = False


@pytest.mark.parametrize("name", ("gradient", "gradient_published", "hybrid"))
def test_a_world_model_without_gradients_is_refused_in_one_line(name):
    for model in (Opaque(), SimulatorWorldModel(env=None)):
        with pytest.raises(ValueError, match="is not differentiable") as caught:
            replan(name, model=model)
        assert "\n" not in str(caught.value) and name in str(caught.value)
        assert type(model).__name__ in str(caught.value)
    check_differentiable(FakeWorldModel(goal=jnp.zeros(2)), name)


def test_published_gradient_settings_are_available_by_name():
    board, cube = (
        worlds.load(name).make_planner("gradient_published").config
        for name in ("board", "cube")
    )
    row = lambda c: (c.iterations, c.learning_rate, c.gradient_clip, c.execute)
    assert row(board) == (10, 0.02, 1.0, 2) and row(cube) == (20, 0.2, 10.0, 4)
    assert (board.action_size, board.action_limit) == (2, 0.03)
    assert (cube.action_size, cube.action_limit) == (5, 1.0)
    for c in (board, cube):
        assert (c.candidates, c.optimizer, c.best_seen) == (1, "sgd", False)
        assert (c.score, c.objective, c.normalise) == (
            "probability", None, "vocabulary",
        )  # fmt: skip
        assert c.horizons == (8, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_planner("gradient", optimizer="adm"), "unknown optimizer 'adm'"),
        (lambda: get_planner("gradient", objective="p"), "unknown objective 'p'"),
        (lambda: get_planner("gradient", learning_rate=0.0), "rate must be positive"),
        (lambda: get_planner("hybrid", refine=65), "candidates 64 must be >= refine"),
        (lambda: get_planner("cem", elites=0), "needs at least 1"),
        (lambda: PlannerConfig(horizon=8, sub_chunk=3), "8 must be a multiple of sub"),
        (lambda: PlannerConfig(momentum=1.5), r"momentum must be in 0\.\.1, got 1.5"),
        (lambda: replan("hybrid", refine=0), "needs refine and refine_steps >= 1"),
    ],
)
def test_bad_settings_are_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_goal_is_reached_from_every_start():
    """Several starts climb side by side, none of them through another's norm."""
    alone = lambda proposals: replan(
        "gradient", proposals=proposals, candidates=proposals.shape[1],
        iterations=3, gradient_clip=0.5, optimizer="sgd", learning_rate=0.01,
        best_seen=False,
    )[2].candidates  # fmt: skip
    starts = np.random.default_rng(0).uniform(-0.03, 0.03, (3, 2, 16, 2))
    starts = starts.astype(np.float32)
    starts[:, 1, :7] = TARGET / 7  # nearly there: a small gradient beside a large one
    both = alone(starts)
    np.testing.assert_allclose(both[:, :1], alone(starts[:, :1]), atol=1e-6)


@pytest.mark.parametrize("score", ("margin", "probability"))
def test_gradients_through_the_vlm_are_its_slopes(score):
    observation, questions, actions = case()
    actions = 0.05 + 0.3 * actions  # norms of the model bend sharply around 0
    model, answers = world_model(), jnp.array([[0, 1], [1, 1]])
    normalise = "vocabulary" if score == "probability" else "answers"

    def total(actions):
        context = model.encode(observation, questions)
        scores = desired_scores(
            model, context, actions, answers, (2, 5), score, normalise
        )
        return chunk_value(scores, jnp.ones((2, 2)))[0].sum()

    value, gradient = quick_jit(total), quick_jit(jax.grad(total))(actions)
    for seed in range(3):
        way = np.random.default_rng(seed).normal(size=actions.shape).astype(np.float32)
        difference = lambda h, way=way: (
            float(value(actions + h * way) - value(actions - h * way)) / (2 * h)
        )
        slope = (4 * difference(1e-3) - difference(2e-3)) / 3  # without the h^2 term
        scale = float(jnp.linalg.norm(gradient)) * np.linalg.norm(way)
        assert scale > 0
        np.testing.assert_allclose((gradient * way).sum(), slope, atol=2e-3 * scale)
