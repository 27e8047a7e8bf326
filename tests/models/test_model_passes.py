"""Candidates and scenes run in passes: memory is bounded, results are those of one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_models import quick_jit
from micro_scoring import HORIZONS, case, plain_score, score, world_model

from swm_jax.models import Observation, VLMWorldModel
from swm_jax.models.chunked_scoring import (
    PassSize,
    Query,
    bytes_per_candidate,
    pass_of,
    pass_that_fits,
)
from swm_jax.planning import get_planner
from swm_jax.planning.goals.value import GoalArrays

SCENES = 2


def with_passes(size=None, budget=None, **config):
    model = world_model()
    config = dataclasses.replace(model.config, **config)
    return model.replace(config=config, candidates_per_pass=size, memory_budget=budget)


def many(candidates, seed=3):
    shape = (SCENES, candidates, 5, 2)
    return 0.03 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def total(model, observation, questions, actions):
    return plain_score(model, observation, questions, actions, HORIZONS, "logits").sum()


def scored(model, context, actions):
    logits = model.answer_logits(context, actions, HORIZONS)
    return logits.sum(), logits


def temporaries(model, candidates, gradient):
    """Bytes that the compiled program holds beside its arguments and results."""
    function = jax.grad(total, argnums=3) if gradient else plain_score
    observation, questions, _ = case()
    inputs = model, observation, questions, jnp.asarray(many(candidates))
    compiled = quick_jit(function).lower(*inputs).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("gradient", [False, True])
def test_memory_does_not_grow_with_the_number_of_candidates(gradient):
    model = with_passes(8)
    few, lots = (temporaries(model, n, gradient) for n in (12, 108))
    more = 96 * SCENES
    scores = len(HORIZONS) * 2 * 2
    # Actions, their gradient and scores may be held twice, in passes and joined.
    assert lots - few <= 4 * more * 2 * (2 * 5 * 2 + 2 * scores)
    if gradient:  # in one pass it does
        assert temporaries(with_passes(10_000), 108, gradient) > 3 * lots


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_budget_holds_what_is_computed_at_once(remat):
    model = with_passes(remat=remat)
    tokens = case()[1].tokens.shape[-1]
    query = Query(SCENES, 5, len(HORIZONS), 2, tokens)
    one = bytes_per_candidate(model.config, query)
    fixed = temporaries(with_passes(1, remat=remat), 2, gradient=True)
    for count in (1, 5, 20):
        fits = pass_that_fits(model.config, query, count * one)
        assert fits == (SCENES, 1 << (count.bit_length() - 1))
    limited = with_passes(budget=9 * one, remat=remat)
    assert fixed < temporaries(limited, 60, gradient=True) <= fixed + 9 * one


def test_passes_of_any_size_give_the_same_gradient():
    observation, questions, _ = case()
    actions = jnp.asarray(many(7))
    gradient = quick_jit(jax.grad(total, argnums=3))
    expected = gradient(with_passes(100), observation, questions, actions)
    assert np.abs(expected).max() > 1e-3
    for size in (6, None):
        got = gradient(with_passes(size), observation, questions, actions)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_passes_of_any_size_give_the_same_plan():
    settings = dict(horizon=5, sub_chunk=5, execute=1, candidates=10, iterations=2)
    planner = get_planner("gradient", **settings)
    observation, questions, _ = case()
    goal = GoalArrays(np.ones((SCENES, 2), np.int32), np.ones((SCENES, 2), np.float32))
    rest = observation, questions, goal, planner.init_state(SCENES), jax.random.key(0)
    plans = [planner.plan(with_passes(size), *rest)[0] for size in (100, 6)]
    assert np.abs(plans[0]).max() > 0
    np.testing.assert_allclose(plans[1], plans[0], atol=1e-5)


def test_memory_for_one_scene_serves_many():
    scenes, (observation, questions, _) = 12, case()
    rows = lambda x: np.resize(x, (scenes, *x.shape[1:]))
    images = (
        rows(observation.image)
        + 7 * np.arange(scenes, dtype=np.uint8)[:, None, None, None]
    )
    asked = jax.tree.map(rows, questions)
    actions = np.random.default_rng(5).normal(size=(scenes, 3, 5, 2)) * 0.03
    model = with_passes(10_000)
    context = quick_jit(VLMWorldModel.encode)(model, Observation(images), asked)
    one = Query(1, 5, len(HORIZONS), *questions.mask.shape[1:])
    need = bytes_per_candidate(model.config, one)
    function = quick_jit(jax.value_and_grad(scored, argnums=2, has_aux=True))
    held, found = [], []
    for each in (model, with_passes(budget=need)):
        run = function.lower(each, context, actions).compile()
        held.append(run.memory_analysis().temp_size_in_bytes)
        (_, logits), slopes = run(each, context, actions)
        found.append((logits, slopes))
    # Actions, gradients and scores may be held twice, in passes and joined.
    joined = 3 * scenes * (2 * 5 * 2 + 2 * len(HORIZONS) * 2 * 2)
    assert held[1] <= need + 4 * 2 * joined
    assert held[0] > 5 * held[1]  # in one pass
    (whole, slope), (parts, slopes) = found
    assert np.ptp(whole, axis=0).max() > 1e-3  # scenes differ
    np.testing.assert_allclose(parts, whole, atol=2e-6)
    np.testing.assert_allclose(slopes, slope, rtol=1e-4, atol=1e-4)


def test_a_pass_takes_all_scenes_or_equal_groups_of_them():
    assert pass_of(4, 130) == PassSize(scenes=4, candidates=32)
    assert pass_of(12, 12) == (12, 1)
    assert pass_of(12, 11) == (6, 1)
    assert pass_of(7, 6) == (1, 6)  # a group of six would leave one scene over
    assert pass_of(3, 1) == (1, 1)


def test_an_unreachable_budget_says_what_would_fit():
    with pytest.raises(
        ValueError, match=r"0\.0 MiB of the memory budget hold no "
    ) as e:
        score(with_passes(budget=1000), *case())
    expected = "one of one scene with 5 actions, 2 question(s) of 4 tokens at 3 horizon"
    assert expected in str(e.value)
    assert "with 1 question and 1 horizon" in str(e.value)
    with pytest.raises(ValueError, match=r"candidates_per_pass must be at least 1.*0"):
        score(with_passes(0), *case())


def test_plenty_of_memory_makes_passes_no_larger_than_pays():
    config = world_model().config
    fit = lambda *args: pass_that_fits(config, *args).candidates
    query = Query(1, 16, 2, 2, 4)
    assert fit(query, 2**60) == 2_560 // (16 + 2 * 2)
    assert 1 <= fit(query) <= fit(query, 2**60)  # what the machine has
    # Full layouts run 4 sequences of image, actions, bos, question and newline.
    full = dataclasses.replace(config, layout="full")
    assert pass_that_fits(full, query, 2**60) == (
        1,
        2_560 // (4 * (4 + 16 + 1 + 4 + 1)),
    )
    # Written answers and whole vocabularies need more.
    longer = bytes_per_candidate(config, query._replace(reply_tokens=8, rows=512))
    assert longer > bytes_per_candidate(config, query)
