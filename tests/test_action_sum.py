"""A projector that reads the sum of the actions knows where each of them leads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_layout import MICRO, quick_jit

from swm_jax.models import SemanticWorldModel, get_config


@functools.cache
def model(action_sum: bool):
    config = get_config("tiny", action_sum=action_sum, **MICRO)
    module = SemanticWorldModel(config)
    return module, quick_jit(module.init_params)(jax.random.key(0))


def embed(action_sum, actions):
    module, params = model(action_sum)
    method = SemanticWorldModel.embed_actions
    return module.apply({"params": params}, jnp.asarray(actions), method=method)


def test_published_projector_reads_the_action_alone():
    _, params = model(False)
    assert params["action"]["kernel"].shape[0] == 2
    chunk = np.float32([[0.03, 0.0], [0.01, 0.02]])
    np.testing.assert_allclose(embed(False, chunk)[1], embed(False, chunk[1:])[0])


def test_embedding_is_linear_in_action_and_running_sum():
    module, params = model(True)
    config, kernel = module.config, np.asarray(params["action"]["kernel"])
    chunk = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    so_far = np.stack([chunk[:, : t + 1].sum(1) for t in range(5)], 1)
    inputs = np.concatenate([chunk, so_far / config.max_horizon**0.5], -1)
    expected = inputs * config.action_scale @ kernel + np.asarray(
        params["action"]["bias"]
    )
    found = np.asarray(embed(True, chunk)) / config.width**0.5
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("later", [0.0, 0.02])
def test_later_actions_change_no_earlier_embedding(later):
    chunk = np.full((4, 2), 0.01, np.float32)
    other = chunk.copy()
    other[2:] = later
    first, second = embed(True, chunk), embed(True, other)
    np.testing.assert_array_equal(first[:2], second[:2])
    assert not np.allclose(first[3], second[3])
