"""Adapters: the adapted model against merged weights and dense gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from micro_models import MICRO, batch_of_queries, quick_jit

from swm_jax.models import SemanticWorldModel, get_config
from swm_jax.models.backbones.lora import (
    LoraRule,
    init_adapters,
    lora_rules,
    merge_adapters,
    scale_adapters,
)
from swm_jax.models.backbones.registry import declared

RULES = (
    LoraRule(r"llm/layers/mlp/.*", rank=3, alpha=6.0),
    LoraRule(r"(llm|img)/.*", rank=2, alpha=1.0),
)
# Input axes of each kind of weight, and those that are matrices of their own.
KINDS = {
    "llm/layers/attn/q_einsum/w": ((2,), (0,)),
    "llm/layers/attn/kv_einsum/w": ((3,), (0, 1)),
    "llm/layers/attn/attn_vec_einsum/w": ((1, 2), (0,)),
    "llm/layers/mlp/gating_einsum": ((2,), (0, 1)),
    "llm/layers/mlp/linear": ((1,), (0,)),
    "img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel": (
        (1,),
        (0,),
    ),
    "img/Transformer/encoderblock/MultiHeadDotProductAttention_0/key/kernel": (
        (1,),
        (0,),
    ),
    "img/Transformer/encoderblock/MultiHeadDotProductAttention_0/value/kernel": (
        (1,),
        (0,),
    ),
    "img/Transformer/encoderblock/MultiHeadDotProductAttention_0/out/kernel": (
        (1, 2),
        (0,),
    ),
    "img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel": ((1,), (0,)),
    "img/Transformer/encoderblock/MlpBlock_0/Dense_1/kernel": ((1,), (0,)),
    "img/head/kernel": ((0,), ()),
}


def flat(tree):
    return flatten_dict(tree, sep="/")


@functools.cache
def model(scan=False):
    # Two layers in the tower: slices of stacked adapters must not be mixed up.
    small = {**MICRO, "vision_depth": 2}
    return SemanticWorldModel(get_config("tiny", scan=scan, **small))


@functools.cache
def base():
    return quick_jit(model().init_params)(jax.random.key(0))


def adapters(shake=0.0):
    fresh = init_adapters(jax.random.key(1), base(), RULES)
    rng = np.random.default_rng(2)
    noise = lambda x: np.float32(x + shake * rng.normal(size=x.shape))
    return jax.tree.map(noise, fresh)


@functools.cache
def forward(scan=False):
    return quick_jit(
        lambda variables: model(scan).apply(variables, batch_of_queries()).logits
    )


def adapted_logits(adapters, scan=False):
    lora = scale_adapters(adapters, RULES)
    return forward(scan)({"params": base(), "lora": lora})


def matrices(weight, name):
    """A weight as [matrix, input, output]."""
    inputs, stacked = KINDS[name]
    outputs = [a for a in range(weight.ndim) if a not in (*inputs, *stacked)]
    order = [*stacked, *inputs, *outputs]
    count = int(np.prod([weight.shape[a] for a in stacked]))
    rows = int(np.prod([weight.shape[a] for a in inputs]))
    return np.asarray(weight, np.float64).transpose(order).reshape(count, rows, -1)


def test_every_matrix_of_a_layer_has_factors_and_nothing_else():
    names = {n for n, leaf in flat(base()).items() if declared(n, leaf.shape).inputs}
    assert names == set(KINDS)
    for name in names:
        rank = 3 if "llm/layers/mlp" in name else 2
        weight = matrices(flat(base())[name], name)
        a, b = (np.asarray(flat(adapters())[f"{name}/{side}"]) for side in "ab")
        assert a.size == weight.shape[0] * weight.shape[1] * rank
        assert b.size == weight.shape[0] * weight.shape[2] * rank
        assert a.std() > 0 and not b.any()


@pytest.mark.parametrize("scan", [False, True])
def test_fresh_adapters_leave_the_model_as_it_is_bit_for_bit(scan):
    plain = forward(scan)({"params": base()})
    np.testing.assert_array_equal(adapted_logits(adapters(), scan), plain)


@pytest.mark.parametrize("scan", [False, True])
def test_the_adapted_model_is_the_merged_model(scan):
    trained = adapters(0.1)
    merged = merge_adapters(base(), trained, RULES)
    expected = forward(scan)({"params": merged})
    got = adapted_logits(trained, scan)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(got - forward(scan)({"params": base()})).max() > 0.05


def test_merging_adds_a_product_of_matrices_scaled_by_alpha_over_rank():
    trained, before = adapters(0.1), jax.tree.map(np.array, base())
    merged = flat(merge_adapters(base(), trained, RULES))
    jax.tree.map(np.testing.assert_array_equal, base(), before)  # untouched
    pairs = flat(trained)
    for name, weight in flat(before).items():
        if name not in KINDS:
            np.testing.assert_array_equal(merged[name], weight)
            continue
        rank, alpha = (3, 6.0) if "llm/layers/mlp" in name else (2, 1.0)
        old = matrices(weight, name)
        count, rows, columns = old.shape
        a = np.float64(pairs[f"{name}/a"]).reshape(count, rows, rank)
        b = np.float64(pairs[f"{name}/b"]).reshape(count, rank, columns)
        expected = old + alpha / rank * (a @ b)
        np.testing.assert_allclose(
            matrices(merged[name], name), expected, atol=1e-5, err_msg=name
        )


def test_gradients_of_adapters_are_those_of_the_dense_weights_projected():
    trained = adapters(0.1)
    weights = jax.random.normal(jax.random.key(7), (1, 4, 2, 32))
    loss = lambda variables: (
        weights
        * jax.nn.log_softmax(model().apply(variables, batch_of_queries()).logits)
    ).sum()
    dense = quick_jit(jax.grad(lambda params: loss({"params": params})))
    dense = flat(dense(merge_adapters(base(), trained, RULES)))
    through = lambda lora: loss({"params": base(), "lora": scale_adapters(lora, RULES)})
    got = flat(quick_jit(jax.grad(through))(trained))
    pairs = flat(trained)
    for name in KINDS:
        rank, alpha = (3, 6.0) if "llm/layers/mlp" in name else (2, 1.0)
        gradient = matrices(dense[name], name)
        count, rows, columns = gradient.shape
        a = np.float64(pairs[f"{name}/a"]).reshape(count, rows, rank)
        b = np.float64(pairs[f"{name}/b"]).reshape(count, rank, columns)
        expected = {
            "a": alpha / rank * gradient @ b.swapaxes(1, 2),
            "b": alpha / rank * a.swapaxes(1, 2) @ gradient,
        }
        for side, value in expected.items():
            found = np.asarray(got[f"{name}/{side}"]).reshape(value.shape)
            size = np.abs(value).max()
            assert size > 0, name
            np.testing.assert_allclose(
                found, value, atol=1e-4 * size + 1e-6, err_msg=f"{name}/{side}"
            )


def test_an_adapter_depends_on_its_own_name_only():
    some = (LoraRule("llm/layers/mlp/linear", 3, 6.0),)
    alone = flat(init_adapters(jax.random.key(1), base(), some))
    assert set(alone) == {"llm/layers/mlp/linear/a", "llm/layers/mlp/linear/b"}
    together = flat(adapters())
    for name, value in alone.items():
        np.testing.assert_array_equal(value, together[name])


def test_rules_that_match_nothing_are_named():
    make = lambda pattern: init_adapters(
        jax.random.key(0), base(), (LoraRule(pattern, 2, 2.0),)
    )
    with pytest.raises(ValueError, match=r"'llm/layer/\.\*' matches no parameter"):
        make("llm/layer/.*")
    with pytest.raises(ValueError, match=r"'layers/mlp/linear' matches no.*llm/layers"):
        make("layers/mlp/linear")
    with pytest.raises(ValueError, match=r"for matrices 'llm/final_norm/scale'"):
        make("llm/final_norm/scale")
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        make("(")
    with pytest.raises(ValueError, match=r"rank of at least 1.*got 0 and 1"):
        lora_rules([(".*", {"rank": 0, "alpha": 1})])
    with pytest.raises(ValueError, match=r"fields \['rank'\], expected alpha and rank"):
        lora_rules([(".*", {"rank": 2})])


def test_bfloat16_models_add_adapters_in_float32():
    config = get_config("tiny", dtype="bfloat16", **MICRO)
    half = SemanticWorldModel(config)
    params = quick_jit(half.init_params)(jax.random.key(0))
    rules = (LoraRule("llm/.*", 2, 2.0),)
    lora = init_adapters(jax.random.key(1), params, rules)
    lora = jax.tree.map(lambda x: x + 0.1, lora)
    run = quick_jit(lambda variables: half.apply(variables, batch_of_queries()).logits)
    np.testing.assert_array_equal(
        run({"params": params, "lora": scale_adapters(lora, rules)}),
        run({"params": merge_adapters(params, lora, rules)}),
    )
    assert jnp.isfinite(run({"params": params})).all()
