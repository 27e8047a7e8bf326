"""Scoring with cached scenes equals asking the training forward, query by query."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_models import MICRO, quick_jit
from micro_scoring import (
    HORIZONS,
    LAYOUTS,
    WINDOWED,
    case,
    plain_score,
    score,
    uncached_logits,
    world_model,
)

from swm_jax.models import (
    Observation,
    QuestionBatch,
    SemanticWorldModel,
    Tokenizer,
    VLMWorldModel,
    get_config,
)
from swm_jax.planning import WorldModel


@pytest.mark.parametrize("layout", (*LAYOUTS, *WINDOWED))
def test_cached_scoring_equals_the_uncached_forward(layout):
    model, inputs = world_model(layout), case()
    full = uncached_logits(model, *inputs)
    ids = inputs[1].answer_ids[:, None, None]
    picked = np.take_along_axis(full, ids, -1)
    assert picked.std() > 0.05  # not flat
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
    close(score(model, *inputs, HORIZONS, "logits"), picked)
    total = np.log(np.exp(full).sum(-1, keepdims=True))
    close(score(model, *inputs, HORIZONS, "vocabulary"), picked - total)
    total = np.log(np.exp(picked).sum(-1, keepdims=True))
    close(score(model, *inputs), picked - total)


@pytest.mark.parametrize(("layout", "per_pass"), [("branched", 4), ("full", 1)])
def test_passes_of_any_size_give_the_same_scores(layout, per_pass):
    whole = score(world_model(layout), *case())
    parts = score(world_model(layout, per_pass), *case())
    np.testing.assert_allclose(parts, whole, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_masked_does_not_matter(layout):
    model, (observation, questions, actions) = world_model(layout), case()
    expected = score(model, observation, questions, actions)
    rubbish = np.where(questions.mask, questions.tokens, 17).astype(np.int32)
    other = dataclasses.replace(questions, tokens=rubbish)
    np.testing.assert_array_equal(score(model, observation, other, actions), expected)
    # Actions behind the horizon: K = 1 is the horizon 2.
    later = actions.copy()
    later[:, :, 2:] = 1.0
    changed = score(model, observation, questions, later)
    np.testing.assert_array_equal(changed[:, :, :2], expected[:, :, :2])
    assert np.abs(changed[:, :, 2] - expected[:, :, 2]).max() > 1e-4


def test_longer_padding_of_questions_changes_nothing():
    model, (observation, questions, actions) = world_model(), case()
    questions = jax.tree.map(lambda x: x[:1], questions)  # at most 3 tokens
    observation = Observation(image=observation.image[:1])
    short = dataclasses.replace(
        questions, tokens=questions.tokens[..., :3], mask=questions.mask[..., :3]
    )
    long = score(model, observation, questions, actions[:1])
    np.testing.assert_allclose(
        score(model, observation, short, actions[:1]), long, atol=1e-6
    )


def test_candidates_scenes_and_horizons_are_independent():
    model, (observation, questions, actions) = world_model(), case()
    expected = np.asarray(score(model, observation, questions, actions))
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    swapped = score(model, observation, questions, actions[:, [2, 0, 1]])
    close(swapped, expected[:, [2, 0, 1]])
    close(
        score(model, observation, questions, actions, (5, 0, 2)),
        expected[:, :, [2, 0, 1]],
    )
    close(score(model, observation, questions, actions, (2,)), expected[:, :, 1:2])
    one = jax.tree.map(lambda x: x[1:], (observation, questions, actions))
    close(score(model, *one), expected[1:])
    # The present is the same whatever is about to be done.
    present = expected[:, :, 0]
    close(present, np.broadcast_to(present[:, :1], present.shape))
    assert np.abs(expected[:, 0, 2] - expected[:, 1, 2]).max() > 1e-4


def test_gradients_reach_the_actions_before_the_horizon_only():
    model, (observation, questions, actions) = world_model(), case()

    def yes(actions):
        logits = plain_score(model, observation, questions, actions, (2,), "logits")
        return logits.sum()

    gradient = np.abs(quick_jit(jax.grad(yes))(jnp.asarray(actions)))
    assert (gradient[:, :, :2] > 0).all()
    assert (gradient[:, :, 2:] == 0).all()


def test_follows_the_protocol_and_its_leaves_are_the_parameters():
    model = world_model()
    assert isinstance(model, WorldModel)
    assert jax.tree.structure(jax.tree.leaves(model)) == jax.tree.structure(
        jax.tree.leaves(model.params)
    )
    doubled = jax.tree.map(lambda x: 2 * x, model)
    before, after = score(model, *case()), score(doubled, *case())
    assert np.abs(before - after).max() > 1e-3  # not baked into the jit
    probabilities = np.exp(np.asarray(before, np.float64))
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, atol=1e-6)


def test_a_person_gets_the_planners_answer():
    tokenizer = Tokenizer.load("tiny")
    config = get_config(
        "tiny", **{**MICRO, "vocab_size": 512, "max_question_tokens": 16}
    )
    params = quick_jit(SemanticWorldModel(config).init_params)(jax.random.key(1))
    model = VLMWorldModel(params, config)
    text = "Is the red moon touching the blue cube?"
    observation, _, actions = case()
    tokens, mask = tokenizer.encode_batch([text], 16)
    ids = [*tokenizer.encode("no"), *tokenizer.encode("yes")]
    questions = QuestionBatch(
        tokens=tokens[None],
        mask=mask[None],
        type_id=np.zeros((1, 1), np.int32),
        args=np.zeros((1, 1, 3), np.int32),
        answer_ids=np.array([[ids]], np.int32),
    )
    one = Observation(image=observation.image[:1])
    expected = np.exp(score(model, one, questions, actions[:1, :1], (0, 4)))
    for k, count in enumerate((0, 4)):
        answer = model.answer(observation.image[0], actions[0, 0, :count], text)
        assert list(answer.alternatives) == ["no", "yes"]
        np.testing.assert_allclose(
            list(answer.alternatives.values()), expected[0, 0, k, 0], atol=1e-6
        )
        assert answer.text == ["no", "yes"][expected[0, 0, k, 0].argmax()]
    bad = actions[0, 0].copy()
    bad[1, 0] = np.nan
    with pytest.raises(ValueError, match="finite, got NaN"):
        model.answer(observation.image[0], bad, text)
    with pytest.raises(ValueError, match=r"6 actions.*max_horizon=5"):
        model.answer(observation.image[0], np.zeros((6, 2)), text)
    with pytest.raises(ValueError, match="longer than the 16 allowed"):
        model.answer(observation.image[0], actions[0, 0], 3 * text)


def test_bad_input_is_named():
    model, (observation, questions, actions) = world_model(), case()
    context = quick_jit(VLMWorldModel.encode)(model, observation, questions)
    with pytest.raises(ValueError, match=r"width 3.*action_size=2"):
        model.answer_logits(context, np.zeros((2, 3, 5, 3)), (5,))
    with pytest.raises(ValueError, match=r"6 actions.*max_horizon=5"):
        model.answer_logits(context, np.zeros((2, 3, 6, 2)), (6,))
    for horizons in ((2, 6), (-1,), ()):
        with pytest.raises(ValueError, match=r"horizons .* expected values in 0..5"):
            model.answer_logits(context, actions, horizons)
    with pytest.raises(ValueError, match=r"'answer'.*'answers' or 'vocabulary'"):
        model.answer_log_probs(context, actions, (2,), "answer")
    longer = dataclasses.replace(
        questions, tokens=np.ones((2, 2, 5), np.int32), mask=np.ones((2, 2, 5), bool)
    )
    with pytest.raises(ValueError, match=r"5 tokens.*max_question_tokens=4"):
        model.encode(observation, longer)
