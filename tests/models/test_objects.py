"""Object tokens: one network in training and in planning, blind to later actions."""

import dataclasses

import jax
import numpy as np
import pytest
from micro_models import MICRO, quick_jit

from swm_jax.models import SemanticWorldModel, TrainBatch, get_config
from swm_jax.models.objects import read_states, robot_path

B, N, H, Q, T = 2, 3, 5, 2, 3
HORIZONS = np.array([2, 5], np.int32)
CONFIG = get_config("tiny", **MICRO, objects=3, object_origin=(0.375, 0.0))
MODEL = SemanticWorldModel(CONFIG)


@pytest.fixture(scope="module")
def params():
    """Parameters whose read-outs are not zero, so that states differ."""
    params = MODEL.init_params(jax.random.key(0))
    rng = np.random.default_rng(1)
    for name in ("owner", "state"):
        kernel = params["objects"][name]["kernel"]
        kernel = rng.normal(size=kernel.shape).astype(np.float32)
        params["objects"][name] = {**params["objects"][name], "kernel": kernel}
    return params


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (B, 8, 8, 3), np.uint8),
        "actions": rng.normal(0, 0.03, (B, N, H, 2)).astype(np.float32),
        "tokens": rng.integers(5, 32, (B, Q, T)).astype(np.int32),
    }


def grid_batch(inputs, horizons=HORIZONS, **changes):
    """A batch with every chunk, horizon and question."""
    queries = N * len(horizons) * Q
    tokens = changes.pop("tokens", inputs["tokens"])
    zeros = np.zeros((B, queries), np.int32)
    fields = {
        "image": inputs["image"],
        "actions": inputs["actions"],
        "question_tokens": tokens,
        "question_mask": tokens > 0,
        "query_question": zeros + np.tile(np.arange(Q), queries // Q),
        "query_horizon": zeros,
        "answer_tokens": zeros[..., None] + 5,
        "answer_mask": zeros[..., None] == 0,
        "query_type": zeros,
        "horizons": np.tile(horizons, (B, 1)),
    }
    return TrainBatch(**{**fields, **changes})


@quick_jit
def logits_of(params, batch):
    return MODEL.apply({"params": params}, batch).logits[..., 0, :]


@quick_jit
def planned(params, image, tokens, actions):
    answers = np.tile(np.arange(32), (B, Q, 1))
    context = MODEL.apply(
        {"params": params},
        *(image, tokens, tokens > 0, answers),
        method=SemanticWorldModel.encode,
    )
    hidden = MODEL.apply(
        {"params": params},
        *(context, actions, HORIZONS),
        method=SemanticWorldModel.imagine,
    )
    read = SemanticWorldModel.read_answers
    return MODEL.apply({"params": params}, hidden, context.answer_ids, method=read)


def test_training_on_several_chunks_computes_what_planning_computes(params, inputs):
    trained = logits_of(params, grid_batch(inputs))
    expected = planned(params, inputs["image"], inputs["tokens"], inputs["actions"])
    np.testing.assert_allclose(
        trained.reshape(expected.shape), expected, rtol=2e-5, atol=2e-5
    )


def test_one_chunk_per_image_computes_the_same(params, inputs):
    expected = planned(params, inputs["image"], inputs["tokens"], inputs["actions"])
    queries = len(HORIZONS) * Q
    batch = grid_batch(inputs).replace(
        actions=inputs["actions"][:, 1],
        horizons=None,
        query_question=np.tile(np.arange(Q, dtype=np.int32), (B, len(HORIZONS))),
        query_horizon=np.tile(np.repeat(HORIZONS, Q), (B, 1)),
        answer_tokens=np.full((B, queries, 1), 5, np.int32),
        answer_mask=np.ones((B, queries, 1), bool),
        query_type=np.zeros((B, queries), np.int32),
    )
    got = logits_of(params, batch).reshape(B, len(HORIZONS), Q, -1)
    np.testing.assert_allclose(got, expected[:, 1], rtol=2e-5, atol=2e-5)


def test_actions_after_the_horizon_change_nothing_and_earlier_ones_do(params, inputs):
    got = logits_of(params, grid_batch(inputs)).reshape(B, N, len(HORIZONS), -1)
    later, earlier = inputs["actions"].copy(), inputs["actions"].copy()
    later[:, :, 2:] += 0.1
    earlier[:, :, 1] += 0.1
    after, before = (
        logits_of(params, grid_batch(inputs, actions=x)).reshape(got.shape)
        for x in (later, earlier)
    )
    np.testing.assert_array_equal(after[:, :, 0], got[:, :, 0])
    assert np.abs(after[:, :, 1] - got[:, :, 1]).max() > 1e-4
    assert np.abs(before - got).min(-1).max() > 1e-4


def test_a_chunk_does_not_see_the_others(params, inputs):
    got = logits_of(params, grid_batch(inputs)).reshape(B, N, -1)
    actions = inputs["actions"].copy()
    actions[:, 0] *= -1
    other = logits_of(params, grid_batch(inputs, actions=actions)).reshape(got.shape)
    np.testing.assert_allclose(other[:, 1:], got[:, 1:], atol=1e-6)
    assert np.abs(other[:, 0] - got[:, 0]).max() > 1e-4


def test_states_are_means_of_the_patches_that_show_the_object():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(2, 4, 8)).astype(np.float32)
    linear = lambda n: {
        "kernel": rng.normal(size=(8, n)).astype(np.float32),
        "bias": rng.normal(size=n).astype(np.float32),
    }
    params = {"owner": linear(4), "state": linear(4)}
    got = read_states(params, features)
    wide = features.astype(np.float64)
    owner = wide @ params["owner"]["kernel"] + params["owner"]["bias"]
    patch = wide @ params["state"]["kernel"] + params["state"]["bias"]
    for b in range(2):
        for k in range(3):
            weight = np.exp(owner[b, :, 1 + k])
            expected = (weight[:, None] * patch[b]).sum(0) / weight.sum()
            np.testing.assert_allclose(got.state[b, k], expected, rtol=1e-4)


def test_the_path_begins_at_the_robot_and_ends_at_the_sum_of_the_actions():
    actions = np.random.default_rng(4).normal(size=(2, 3, H, 3)).astype(np.float32)
    path = np.asarray(robot_path(actions, 2))
    assert path.shape == (2, 3, H + 1, 2)
    assert (path[..., 0, :] == 0).all()
    np.testing.assert_allclose(path[..., -1, :], actions[..., :2].sum(-2), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "block"}, "need layout='branched', got 'block'"),
        ({"objects": 1}, "objects beside the robot"),
        ({"action_size": 1}, "actions that move it along all coordinates"),
        ({"object_origin": (0.1,)}, r"object_origin=\(0.1,\) has not object_axes=2"),
    ],
)
def test_a_config_that_does_not_fit_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **fields)


def test_several_chunks_in_another_layout_are_refused(inputs):
    plain = SemanticWorldModel(get_config("tiny", **MICRO, layout="block"))
    with pytest.raises(ValueError, match="need the layout branched, the model has"):
        jax.eval_shape(
            lambda p: plain.apply({"params": p}, grid_batch(inputs)),
            plain.param_shapes(),
        )


def test_a_model_without_object_tokens_learns_from_several_chunks_too(inputs):
    plain = SemanticWorldModel(get_config("tiny", **MICRO))
    params = plain.init_params(jax.random.key(0))
    several = plain.apply({"params": params}, grid_batch(inputs)).logits
    several = several.reshape(B, N, len(HORIZONS), Q, -1)
    queries = len(HORIZONS) * Q
    single = grid_batch(inputs).replace(
        actions=inputs["actions"][:, 2],
        horizons=None,
        query_question=np.tile(np.arange(Q, dtype=np.int32), (B, len(HORIZONS))),
        query_horizon=np.tile(np.repeat(HORIZONS, Q), (B, 1)),
        answer_tokens=np.full((B, queries, 1), 5, np.int32),
        answer_mask=np.ones((B, queries, 1), bool),
        query_type=np.zeros((B, queries), np.int32),
    )
    one = plain.apply({"params": params}, single).logits
    one = one.reshape(B, len(HORIZONS), Q, -1)
    np.testing.assert_allclose(several[:, 2], one, rtol=2e-5, atol=2e-5)
