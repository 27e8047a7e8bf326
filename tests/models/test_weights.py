"""Declared weights: what follows from the letters of their axes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from micro_models import GEMMA3, MICRO, quick_jit

from swm_jax.models import VARIANTS, SemanticWorldModel, get_config
from swm_jax.models.backbones import registry
from swm_jax.models.backbones.weights import Weight, zeros
from swm_jax.training.sharding import default_rule

QUERY = Weight((3, 4, 8, 2), "LNDH", "D")
BLOCK = "img/Transformer/encoderblock/"
ATTENTION = f"{BLOCK}MultiHeadDotProductAttention_0/"


def test_factors_multiply_to_the_weight_s_axes():
    for weight, names in (
        (QUERY, "...Dr,...rNH->...NDH"),
        (Weight((3, 2, 4, 8, 2), "LSKDH", "D"), "...Dr,...rKH->...KDH"),
        (Weight((3, 4, 2, 8), "LNHD", "NH"), "...NHr,...rD->...NHD"),
        (Weight((5, 7), "IO", "I"), "...Ir,...rO->...IO"),
    ):
        a, b = (np.ones(shape) for shape in weight.factor_shapes(6))
        assert weight.product == names
        product = np.einsum(weight.product, a, b)
        np.testing.assert_array_equal(product, np.full(weight.shape, 6.0))


def test_fresh_matrices_keep_the_scale_of_what_they_multiply():
    rng = np.random.default_rng(0)
    for weight, sums in (
        (Weight((2, 16, 64, 8), "LNDH", "D"), "bd,lndh->blnh"),
        (Weight((2, 16, 8, 32), "LNHD", "NH"), "bnh,lnhd->bld"),
        (Weight((2, 2, 4, 64, 8), "LSKDH", "D"), "bd,lskdh->blskh"),
    ):
        size = dict(zip(sums.partition("->")[0].split(",")[1], weight.shape))
        x = rng.normal(size=(64, *(size[a] for a in sums.partition(",")[0][1:])))
        value = weight.initializer(jax.random.key(0), weight.shape, jnp.float32)
        assert np.einsum(sums, x, value).std() == pytest.approx(1.0, abs=0.06)


def test_a_declaration_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match=r"axes 'LDF' do not fit the shape \(3, 4\)"):
        Weight((3, 4), "LDF", "D")
    with pytest.raises(ValueError, match=r"init='fan_in' of \(3,\) needs inputs"):
        Weight((3,))


@functools.cache
def shapes(variant):
    model = SemanticWorldModel(get_config(variant))
    tree = jax.eval_shape(model.init_params, jax.random.key(0))
    return {k: leaf.shape for k, leaf in flatten_dict(tree, sep="/").items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_name_says_the_same_of_every_variant_s_parameter(variant):
    backbone = registry.BACKBONES[get_config(variant).backbone]
    config = get_config(variant)
    made = {
        "img": backbone.tower.weights(config),
        "llm": backbone.decoder.weights(config),
    }
    for name, weight in flatten_dict(made, sep="/").items():
        assert shapes(variant)[name] == weight.shape, name
        found = registry.declared(name, weight.shape)
        assert (found.axes, found.inputs) == (weight.axes, weight.inputs), name


def test_two_backbones_may_not_disagree_about_a_name(monkeypatch):
    class Other(registry.gemma.Decoder):
        @staticmethod
        def weights(c):
            tree = registry.gemma.Decoder.weights(c)
            tree["layers"]["mlp"]["linear"] = Weight((2, 3, 4), "LDF", "D")
            return tree

    known = registry.BACKBONES["paligemma"]
    backbones = {"paligemma": known, "other": registry.Backbone(known.tower, Other)}
    monkeypatch.setattr(registry, "BACKBONES", backbones)
    registry._by_name.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"mlp/linear: with axes 'LFD' and 'LDF'"):
            registry.declared("llm/layers/mlp/linear", (2, 3, 4))
    finally:
        registry._by_name.cache_clear()


def test_what_no_backbone_declares_has_no_axes():
    for name in ("dense/patch/kernel", "lora/llm/layers/mlp/linear/a", "action/kernel"):
        weight = registry.declared(name, (2, 3))
        assert (weight.axes, weight.inputs, weight.shape) == ("", "", (2, 3))
    assert default_rule("action/kernel", (2, 3)) == "fsdp"


def test_heads_hidden_width_and_vocabulary_go_to_tensor_and_width_to_fsdp():
    tensor, fsdp = ("tensor?",), ("fsdp?",)
    expected = {
        "llm/embedder/input_embedding": (tensor, fsdp),
        "llm/layers/attn/q_einsum/w": (None, tensor, fsdp, None),
        "llm/layers/attn/kv_einsum/w": (None, None, tensor, fsdp, None),
        "llm/layers/attn/attn_vec_einsum/w": (None, tensor, None, fsdp),
        "llm/layers/mlp/gating_einsum": (None, None, fsdp, tensor),
        "llm/layers/mlp/linear": (None, tensor, fsdp),
        f"{ATTENTION}query/kernel": (None, fsdp, tensor, None),
        f"{ATTENTION}key/kernel": (None, fsdp, tensor, None),
        f"{ATTENTION}value/kernel": (None, fsdp, tensor, None),
        f"{ATTENTION}out/kernel": (None, tensor, None, fsdp),
        f"{BLOCK}MlpBlock_0/Dense_0/kernel": (None, fsdp, tensor),
        f"{BLOCK}MlpBlock_0/Dense_1/kernel": (None, tensor, fsdp),
    }
    for name, shape in shapes("gemma3_4b").items():
        assert default_rule(name, shape) == expected.pop(name, "fsdp"), name
    assert not expected


def test_an_unknown_backbone_is_met_with_the_nearest_known():
    with pytest.raises(ValueError, match=r"backbone 'gema3'.*did you mean 'gemma3'"):
        get_config("tiny", backbone="gema3")
    with pytest.raises(ValueError, match=r"2 patches per side.*multiple of pool=3"):
        get_config("tiny", **{**MICRO, "pool": 3})


def test_norms_of_gemma_3_begin_as_norms_without_a_scale():
    model = SemanticWorldModel(get_config("tiny", **{**MICRO, **GEMMA3}))
    params = quick_jit(model.init_params)(jax.random.key(0))
    norms = [params["llm"]["layers"]["attn"][f"{x}_norm"] for x in ("query", "key")]
    for norm in (*norms, params["img"]["soft_norm"]):
        assert not np.any(norm["scale"])
    assert registry.declared("img/soft_norm/scale", (8,)).init is zeros
