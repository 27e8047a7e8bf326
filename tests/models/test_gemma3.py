"""Gemma 3: what local and global layers see, and how patches are pooled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_models import GEMMA3, MICRO, batch_of_queries, quick_jit

from swm_jax.models import SemanticWorldModel, get_config
from swm_jax.models.layout import Segment, Sight

LENGTH = 9


def model(**sizes):
    return SemanticWorldModel(get_config("tiny", **{**MICRO, **GEMMA3, **sizes}))


def influence(model):
    """[target, source]: how much each token of a causal sequence moves a last state."""
    params = quick_jit(model.init_params)(jax.random.key(0))
    tokens = jax.random.normal(jax.random.key(1), (LENGTH, model.config.width))
    positions = jnp.arange(LENGTH)

    def run(tokens):
        own = Sight("answer", "b", positions[None], jnp.tri(LENGTH, dtype=bool))
        layout = {"answer": Segment("bm", tokens[None], positions, (own,))}
        decode = lambda model: model.llm(layout).hidden["answer"][0]
        return model.apply({"params": params}, method=decode)

    return np.abs(quick_jit(jax.jacobian(run))(tokens)).sum((1, 3))


@pytest.mark.parametrize("scan", [False, True])
def test_local_layers_see_a_window_and_global_layers_everything(scan):
    behind = np.arange(LENGTH)[:, None] - np.arange(LENGTH)
    local = influence(model(depth=2, global_every=3, window=3, scan=scan))
    # Two layers of windows of three: what a seen token saw arrives, too.
    np.testing.assert_array_equal(local > 0, (behind >= 0) & (behind <= 4))
    mixed = influence(model(depth=2, global_every=2, window=3, scan=scan))
    np.testing.assert_array_equal(mixed > 0, behind >= 0)


def test_every_sixth_layer_of_the_4b_model_is_global():
    c = get_config("gemma3_4b")
    kinds = SemanticWorldModel(c).apply({}, method=lambda model: model.llm.kinds())
    assert [i for i, kind in enumerate(kinds) if kind] == [5, 11, 17, 23, 29]
    assert len(kinds) == 34
    assert (c.patches, c.image_tokens) == (4096, 256)


def test_an_image_token_is_the_normed_mean_of_a_square_of_patches():
    m = model()
    params = quick_jit(m.init_params)(jax.random.key(0))
    shake = np.random.default_rng(0).normal(size=8).astype(np.float32)
    params["img"]["soft_norm"]["scale"] = shake
    image = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3), np.uint8)
    see = lambda model: model.embed_image(image)
    tokens, features = quick_jit(lambda p: m.apply({"params": p}, method=see))(params)
    assert tokens.shape == (1, 4, 16) and features.shape == (1, 16, 8)
    rows = np.float64(features[0])
    for token, patches in enumerate([(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13)]):
        mean = rows[list(patches)].mean(0)
        normed = mean / np.sqrt((mean**2).mean() + 1e-6) * (1 + shake)
        expected = normed @ np.float64(params["img"]["head"]["kernel"])
        np.testing.assert_allclose(tokens[0, token], expected, atol=1e-5)


def test_text_before_the_answer_is_causal_in_the_full_layout():
    m = model(layout="full")
    params = quick_jit(m.init_params)(jax.random.key(0))
    batch = batch_of_queries()

    def build(model):
        return model.training_layout(batch, model.embed_image(batch.image)[0])

    layout = m.apply({"params": params}, method=build)["answer"]
    sees = np.asarray(layout.sight[0].mask[0, 2])  # of the third query, horizon 4
    real = sees.any(0)
    assert real.sum() == 4 + 4 + 1 + 3 + 2  # image, actions, bos, question, answer
    expected = np.tri(len(sees), dtype=bool)
    expected[:4, :4] = True  # image tokens see one another
    np.testing.assert_array_equal(sees, expected & real)
