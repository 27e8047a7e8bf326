"""Variants, parameter trees, scales, images, and the ways to run the layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_models import MICRO, batch_of_queries, quick_jit

from swm_jax.models import (
    SemanticWorldModel,
    get_config,
    preprocess_image,
)


@functools.cache
def shapes(variant):
    model = SemanticWorldModel(get_config(variant))
    tree = jax.eval_shape(model.init_params, jax.random.key(0))
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in flat}


def count(shapes, prefix=""):
    return sum(np.prod(s, dtype=int) for n, s in shapes.items() if n.startswith(prefix))


def test_paligemma_has_big_vision_s_tree():
    tree = shapes("paligemma_3b_224")
    block = "img/Transformer/encoderblock"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    expected = {
        "img/embedding/kernel": (14, 14, 3, 1152),
        "img/embedding/bias": (1152,),
        "img/pos_embedding": (1, 256, 1152),
        "img/Transformer/encoder_norm/scale": (1152,),
        "img/Transformer/encoder_norm/bias": (1152,),
        "img/head/kernel": (1152, 2048),
        "img/head/bias": (2048,),
        f"{attention}/out/kernel": (27, 16, 72, 1152),
        f"{attention}/out/bias": (27, 1152),
        f"{block}/MlpBlock_0/Dense_0/kernel": (27, 1152, 4304),
        f"{block}/MlpBlock_0/Dense_0/bias": (27, 4304),
        f"{block}/MlpBlock_0/Dense_1/kernel": (27, 4304, 1152),
        f"{block}/MlpBlock_0/Dense_1/bias": (27, 1152),
        "llm/embedder/input_embedding": (257_152, 2048),
        "llm/final_norm/scale": (2048,),
        "llm/layers/attn/q_einsum/w": (18, 8, 2048, 256),
        "llm/layers/attn/kv_einsum/w": (18, 2, 1, 2048, 256),
        "llm/layers/attn/attn_vec_einsum/w": (18, 8, 256, 2048),
        "llm/layers/mlp/gating_einsum": (18, 2, 2048, 16_384),
        "llm/layers/mlp/linear": (18, 16_384, 2048),
        "llm/layers/pre_attention_norm/scale": (18, 2048),
        "llm/layers/pre_ffw_norm/scale": (18, 2048),
        "action/kernel": (2, 2048),
        "action/bias": (2048,),
    }
    for name in ("query", "key", "value"):
        expected[f"{attention}/{name}/kernel"] = (27, 1152, 16, 72)
        expected[f"{attention}/{name}/bias"] = (27, 16, 72)
    for norm in ("LayerNorm_0", "LayerNorm_1"):
        expected[f"{block}/{norm}/scale"] = (27, 1152)
        expected[f"{block}/{norm}/bias"] = (27, 1152)
    assert tree == expected


@pytest.mark.parametrize(
    "name, parameters",
    {
        "paligemma_3b_224": 2_923_335_408,
        "paligemma_3b_448": 2_924_220_144,
        "paligemma_3b_896": 2_927_759_088,
        "paligemma2_3b_224": 3_032_094_960,
        "paligemma2_10b_224": 9_662_409_456,
        "paligemma2_28b_224": 27_650_192_112,
    }.items(),
)
def test_published_sizes_have_the_published_number_of_parameters(name, parameters):
    tree = shapes(name)
    assert count(tree) - count(tree, "action/") == parameters


def test_paligemma_2_adds_two_norms_to_each_layer_and_groups_the_keys():
    first, second = shapes("paligemma_3b_224"), shapes("paligemma2_3b_224")
    assert {name: second[name] for name in set(second) - set(first)} == {
        "llm/layers/post_attention_norm/scale": (26, 2304),
        "llm/layers/post_ffw_norm/scale": (26, 2304),
    }
    assert not set(first) - set(second)
    image = {name for name in first if name.startswith("img/")} - {
        "img/head/kernel",
        "img/head/bias",
    }
    assert all(first[name] == second[name] for name in image)  # the same tower
    changed = {n: second[n] for n in first if "llm/" in n and "norm" not in n}
    assert changed == {
        "llm/embedder/input_embedding": (257_152, 2304),
        "llm/layers/attn/q_einsum/w": (26, 8, 2304, 256),
        "llm/layers/attn/kv_einsum/w": (26, 2, 4, 2304, 256),
        "llm/layers/attn/attn_vec_einsum/w": (26, 8, 256, 2304),
        "llm/layers/mlp/gating_einsum": (26, 2, 2304, 9216),
        "llm/layers/mlp/linear": (26, 9216, 2304),
    }


def test_smaller_variants_are_paligemma_with_other_numbers():
    assert count(shapes("tiny")) <= 4_000_000
    assert 40_000_000 <= count(shapes("small")) <= 100_000_000
    for variant in ("tiny", "small"):
        assert set(shapes(variant)) == set(shapes("paligemma_3b_224"))


def test_image_sizes_change_only_the_positions_of_patches():
    for name in ("paligemma_3b", "paligemma2_3b", "paligemma2_10b", "paligemma2_28b"):
        base = shapes(f"{name}_224")
        for size in (448, 896):
            other = {**base, "img/pos_embedding": (1, (size // 14) ** 2, 1152)}
            assert shapes(f"{name}_{size}") == other


def test_text_and_actions_are_scaled_by_the_root_of_the_width_and_images_are_not():
    config = get_config("tiny", **{**MICRO, "action_scale": 1.0})
    model = SemanticWorldModel(config)
    params = quick_jit(model.init_params)(jax.random.key(0))
    batch = batch_of_queries()

    def look(model):
        image, features = model.embed_image(batch.image)
        return image, features, model.training_layout(batch, image)

    _, features, layout = model.apply({"params": params}, method=look)
    head = params["img"]["head"]
    np.testing.assert_allclose(
        layout["image"].tokens, features @ head["kernel"] + head["bias"], atol=1e-5
    )
    rows = params["llm"]["embedder"]["input_embedding"]
    np.testing.assert_allclose(
        layout["question"].tokens, 4.0 * rows[batch.question_tokens], rtol=1e-6
    )
    projected = batch.actions @ params["action"]["kernel"] + params["action"]["bias"]
    np.testing.assert_allclose(layout["action"].tokens, 4.0 * projected, rtol=1e-5)
    newline = layout["answer"].tokens[0, :, 0]
    np.testing.assert_allclose(
        newline, np.broadcast_to(4.0 * rows[config.newline_id], newline.shape)
    )


@pytest.mark.parametrize(
    "options",
    [dict(scan=True), dict(scan=True, remat="full"), dict(remat="dots")],
    ids=str,
)
def test_scanned_and_rematerialised_layers_compute_the_same(options):
    batch = batch_of_queries()
    variants = [get_config("tiny", **MICRO), get_config("tiny", **MICRO, **options)]
    params = quick_jit(SemanticWorldModel(variants[0]).init_params)(jax.random.key(0))

    def gradient(config):
        def loss(params):
            outputs = SemanticWorldModel(config).apply({"params": params}, batch)
            return jnp.square(outputs.logits).sum() + outputs.patch_features.mean()

        return quick_jit(jax.grad(loss))(params)

    plain, other = map(gradient, variants)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        plain,
        other,
    )
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain))


def test_bfloat16_activations_stay_near_float32_and_logits_are_float32():
    batch = batch_of_queries()
    params = quick_jit(SemanticWorldModel(get_config("tiny", **MICRO)).init_params)(
        jax.random.key(0)
    )
    logits = [
        quick_jit(SemanticWorldModel(get_config("tiny", **MICRO, dtype=dtype)).apply)(
            {"params": params}, batch
        ).logits
        for dtype in ("float32", "bfloat16")
    ]
    assert logits[1].dtype == jnp.float32
    difference = np.abs(logits[0] - logits[1])
    assert 0 < difference.max() < 0.15 * np.abs(logits[0]).max()


def test_images_become_minus_one_to_one():
    image = np.zeros((2, 4, 4, 3), np.uint8)
    image[1] = 255
    result = preprocess_image(image, 4)
    assert result.dtype == jnp.float32
    assert (result[0] == -1).all() and (result[1] == 1).all()


def test_other_sizes_are_resized_without_aliasing_or_cropping():
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the target: only the mean survives
    result = np.asarray(preprocess_image(stripes, 2))
    np.testing.assert_allclose(result, 0.0, atol=0.15)
    halves = np.zeros((6, 12, 3), np.uint8)
    halves[:, 6:] = 255  # a wide view is squeezed, both halves stay
    result = np.asarray(preprocess_image(halves, 4))
    assert (result[:, 0] < -0.9).all() and (result[:, 3] > 0.9).all()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match=r"uint8\[..., height, width, 3\], got"):
        preprocess_image(image, 4)


def test_unknown_names_are_met_with_the_nearest_known():
    with pytest.raises(ValueError, match=r"model variant 'tyni'.*did you mean 'tiny'"):
        get_config("tyni")
    with pytest.raises(ValueError, match=r"did you mean 'paligemma2_3b_224'"):
        get_config("paligema2_3b_224")
    with pytest.raises(ValueError, match=r"did you mean 'max_horizon'"):
        get_config("tiny", max_horizn=3)
    with pytest.raises(ValueError, match=r"layout 'branchd'.*did you mean 'branched'"):
        get_config("tiny", layout="branchd")
    with pytest.raises(
        ValueError, match=r"image_size=96 is not a multiple of patch_si"
    ):
        get_config("tiny", patch_size=11)


def test_training_on_what_does_not_fit_is_refused():
    model = SemanticWorldModel(get_config("tiny", **MICRO))
    params = jax.eval_shape(model.init_params, jax.random.key(0))
    run = lambda batch: jax.eval_shape(model.apply, {"params": params}, batch)
    batch = batch_of_queries()
    with pytest.raises(ValueError, match=r"width 3.*action_size=2"):
        run(batch.replace(actions=np.zeros((1, 4, 3), np.float32)))
    with pytest.raises(ValueError, match=r"6 actions.*max_horizon=5"):
        run(batch.replace(actions=np.zeros((1, 6, 2), np.float32)))
    with pytest.raises(ValueError, match=r"5 tokens.*max_question_tokens=4"):
        run(batch.replace(question_tokens=np.ones((1, 2, 5), np.int32)))
