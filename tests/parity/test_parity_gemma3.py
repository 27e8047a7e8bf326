"""Our Gemma 3 against `transformers`, with random weights.

`transformers` gets the sequence that the `full` layout has (image, bos, question,
newline, answer) and makes its own mask of it: image tokens see one another, all else
is causal, and local layers see a window of both.
"""

import functools

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from parity_cases import (
    GEMMA3_CASES,
    assert_same_gradient,
    assert_same_outputs,
    leaves,
    our_outputs,
    random_batch,
    random_params,
)
from torch_mapping import to_tree
from torch_paligemma import torch_config, torch_model, torch_outputs
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from swm_jax.checkpoints.convert import convert
from swm_jax.checkpoints.formats.detect import open_source
from swm_jax.models import SemanticWorldModel, get_config

pytestmark = pytest.mark.parity
GEMMA3, TIGHT = GEMMA3_CASES
every_case = pytest.mark.parametrize("case", GEMMA3_CASES, ids=lambda case: case.name)
# What the published config.json of the 4B model says beside names and token ids.
PUBLISHED = dict(
    text_config=dict(
        hidden_size=2560,
        intermediate_size=10240,
        model_type="gemma3_text",
        num_hidden_layers=34,
        rope_scaling={"factor": 8.0, "rope_type": "linear"},
        sliding_window=1024,
    ),
    vision_config=dict(
        hidden_size=1152,
        image_size=896,
        intermediate_size=4304,
        model_type="siglip_vision_model",
        num_attention_heads=16,
        num_hidden_layers=27,
        patch_size=14,
        vision_use_head=False,
    ),
    mm_tokens_per_image=256,
    image_token_index=262144,
)
ARCHITECTURE = (
    *("backbone", "layout", "image_size", "patch_size", "pool", "vision_width"),
    *("vision_depth", "vision_mlp", "vision_heads", "width", "depth", "mlp", "heads"),
    *("kv_heads", "head_dim", "query_width", "post_norms", "attention_softcap"),
    *("final_softcap", "window", "global_every", "rope_base", "rope_scale"),
    *("causal_text", "vocab_size"),
)


@functools.cache
def both(case):
    params, batch = random_params(case), random_batch(case, actions=False)
    return our_outputs(case, params, batch), torch_outputs(case, params, batch)


@every_case
def test_features_hidden_states_and_logits_equal_those_of_transformers(case):
    assert_same_outputs(*both(case))


@every_case
def test_gradients_equal_those_of_transformers(case):
    ours, theirs = (outputs["gradient"] for outputs in both(case))
    assert set(ours) - set(theirs) == {"action/kernel", "action/bias"}
    assert_same_gradient(ours, theirs)


@pytest.mark.parametrize(
    "other",
    [
        {"sliding_window": 100},
        {"sliding_window_pattern": 6},
        {"rope_theta": 10_000.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 1.0}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_wrong_window_pattern_base_or_scale_would_be_noticed(other):
    params, batch = random_params(GEMMA3), random_batch(GEMMA3, actions=False)
    right = both(GEMMA3)[0]["logits"]
    wrong = torch_outputs(GEMMA3, params, batch, **other)["logits"]
    assert np.abs(right - wrong).max() > 1e-3


def test_the_4b_model_has_the_published_tensors_and_constants():
    config, theirs = get_config("gemma3_4b"), Gemma3Config(**PUBLISHED)
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(theirs)
    state = to_tree(model.state_dict(), config)
    tree = jax.eval_shape(SemanticWorldModel(config).init_params, jax.random.key(0))
    ours = {k: v.shape for k, v in leaves(tree).items() if not k.startswith("action")}
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    rows, width = shapes.pop("llm/embedder/input_embedding")
    # The stored table has 64 rows for image tokens and padding, which are dropped.
    assert ours.pop("llm/embedder/input_embedding") == (rows - 64, width)
    assert ours == shapes
    mine, text = torch_config(config).text_config, theirs.text_config
    for field in (
        "layer_types",
        "sliding_window",
        "rope_parameters",
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "hidden_activation",
        "rms_norm_eps",
    ):
        assert getattr(mine, field) == getattr(text, field), field


@every_case
def test_folders_go_from_transformers_to_us_and_back(case, tmp_path):
    params = random_params(case)
    model = torch_model(case, params)
    model.save_pretrained(tmp_path / "theirs")
    source = open_source(tmp_path / "theirs")
    for key, leaf in source.leaves.items():
        np.testing.assert_array_equal(leaf.read(), leaves(params)[key], key)
    for field in ARCHITECTURE:
        assert getattr(source.config, field) == getattr(case.config, field), field
    back = convert(source, tmp_path / "ours", "hugging_face")
    again = Gemma3ForConditionalGeneration.from_pretrained(back)
    state = to_tree(again.state_dict(), case.config)
    for key, value in state.items():
        value = value[: case.config.vocab_size] if "embedding" in key else value
        np.testing.assert_array_equal(value, leaves(params)[key], key)
    for field in ("layer_types", "sliding_window", "rope_parameters"):
        ours, theirs = (getattr(m.config.text_config, field) for m in (again, model))
        assert ours == theirs, field
    assert again.config.mm_tokens_per_image == case.config.image_tokens
