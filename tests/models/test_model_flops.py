"""Operations counted from shapes are those of the programs that are traced."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import extend
from micro_models import MICRO

from swm_jax.models import (
    Observation,
    QuestionBatch,
    SemanticWorldModel,
    TrainBatch,
    VLMWorldModel,
    flops,
    get_config,
)

LAYOUTS = ("branched", "block", "full")
N, H, K, Q, T, R, L = 3, 5, 2, 2, 4, 8, 3


def traced_products(jaxpr) -> int:
    """2 x M x N x K of every product in a jaxpr, scan bodies as often as they run."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            depth = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
            total += 2 * depth * eqn.outvars[0].aval.size
        inner = [traced_products(j) for j in extend.core.jaxprs_in_params(eqn.params)]
        total += eqn.params.get("length", 1) * sum(inner)
    return total


def count(function, *args) -> int:
    return traced_products(jax.make_jaxpr(function)(*args).jaxpr)


def world_model(layout, scan, **more):
    config = get_config("tiny", **{**MICRO, "layout": layout, "scan": scan, **more})
    params = jax.eval_shape(SemanticWorldModel(config).init_params, jax.random.key(0))
    return VLMWorldModel(params, config)


def scene():
    ints = functools.partial(np.zeros, dtype=np.int32)
    questions = QuestionBatch(
        tokens=ints((1, Q, T)),
        mask=np.ones((1, Q, T), bool),
        type_id=ints((1, Q)),
        args=ints((1, Q, 3)),
        answer_ids=ints((1, Q, 2)),
    )
    return Observation(image=np.zeros((1, 8, 8, 3), np.uint8)), questions


@pytest.mark.parametrize(
    ("layout", "scan", "objects"),
    [
        *((layout, scan, 0) for layout in LAYOUTS for scan in (True, False)),
        ("branched", True, 3),
        ("branched", False, 3),
    ],
)
def test_planning_counts_are_those_of_the_traced_program(layout, scan, objects):
    model = world_model(layout, scan, objects=objects)
    context = jax.eval_shape(VLMWorldModel.encode, model, *scene())
    encoded = flops.encode_flops(model.config, Q, T)
    assert count(VLMWorldModel.encode, model, *scene()) == encoded
    actions = np.zeros((1, N, H, 2), np.float32)
    score = lambda *inputs: VLMWorldModel.answer_logits(*inputs, horizons=(2, H))
    assert count(score, model, context, actions) == flops.scoring_flops(
        model.config, flops.Scoring(N, K, Q, H, T)
    )


@pytest.mark.parametrize(
    ("layout", "objects", "chunks"),
    [*((layout, 0, 0) for layout in LAYOUTS), ("branched", 3, 0), ("branched", 3, 2)],
)
def test_a_train_step_is_three_forwards(layout, objects, chunks):
    model = world_model(layout, True, objects=objects)
    ints = functools.partial(np.zeros, dtype=np.int32)
    batch = TrainBatch(
        image=np.zeros((2, 8, 8, 3), np.uint8),
        actions=np.zeros((2, H, 2), np.float32),
        question_tokens=ints((2, Q, T)),
        question_mask=np.ones((2, Q, T), bool),
        query_question=ints((2, R)),
        query_horizon=ints((2, R)),
        answer_tokens=ints((2, R, L)),
        answer_mask=np.ones((2, R, L), bool),
        query_type=ints((2, R)),
    )
    grid = (chunks, R // Q // chunks) if chunks else (0, 0)
    if chunks:  # R queries: 2 chunks at R / 2 Q horizons
        actions = np.zeros((2, chunks, H, 2), np.float32)
        batch = batch.replace(actions=actions, horizons=ints((2, grid[1])))

    def forward(params):
        outputs = SemanticWorldModel(model.config).apply({"params": params}, batch)
        future = outputs.future_features
        return outputs.logits.sum() + (0.0 if future is None else future.sum())

    expected = flops.train_step_flops(
        model.config, 2, H, Q, T, R, L, chunks=grid[0], horizons=grid[1]
    )
    assert 3 * count(forward, model.params) == expected
    # The pixels, the actions and the one-hot rows need no gradient.
    assert count(jax.grad(forward), model.params) == pytest.approx(expected, rel=0.1)


def test_compiled_program_agrees_with_the_count():
    config = get_config("tiny", scan=False)
    params = jax.eval_shape(SemanticWorldModel(config).init_params, jax.random.key(0))
    model = VLMWorldModel(params, config)
    context = jax.eval_shape(VLMWorldModel.encode, model, *scene())
    actions = jax.ShapeDtypeStruct((1, 64, 16, 2), jnp.float32)
    score = lambda *inputs: VLMWorldModel.answer_logits(*inputs, horizons=(8, 16))
    compiled = jax.jit(score).lower(model, context, actions).compile()
    counted = flops.scoring_flops(config, flops.Scoring(64, 2, Q, 16, T))
    # XLA also counts norms, softmax and masks.
    assert 1.0 < compiled.cost_analysis()["flops"] / counted < 1.15


def test_gemma_2b_costs_what_its_description_says():
    config = get_config("paligemma_3b_224")
    # 18 layers of 2048 x (2 x 2048 + 2 x 256 + 3 x 16384), twice.
    assert flops.decoder_flops_per_token(config) == 3_963_617_280
    assert flops.unembed_flops(config) == 2 * 2048 * 257_152
    # 27 layers at 256 tokens; the tower has 412 M weights.
    assert flops.image_tower_flops(config) == pytest.approx(2 * 412e6 * 256, rel=0.08)
    asked = flops.Scoring(64, 2, 2, 16, config.max_question_tokens)
    branched = flops.scoring_tokens(config, asked)
    assert branched == 64 * (16 + 2 * 2)
    full = get_config("paligemma_3b_224", layout="full")
    ratio = flops.scoring_flops(full, asked) / flops.scoring_flops(config, asked)
    assert ratio == pytest.approx(4 * (256 + 16 + 1 + 32 + 1) / 20, rel=0.05)
    # One pass over 64 candidates reads 2 G weights once, in two bytes each.
    assert flops.scoring_bytes(config, asked) == pytest.approx(3.96e9, rel=0.1)
