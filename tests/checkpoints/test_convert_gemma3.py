"""Gemma 3 folders: every tensor and constant accounted for, there and back."""

import json

import micro_checkpoints as micro
import numpy as np
import pytest

import swm_jax
from swm_jax.checkpoints import CheckpointError
from swm_jax.checkpoints.convert import convert
from swm_jax.checkpoints.formats.detect import open_source
from swm_jax.checkpoints.formats.huggingface.config import read_config

KIND = "gemma3_text"
GEMMA3 = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}


def folder(path, change=lambda found, config: None, action_size=None):
    found = micro.tensors(kind=KIND, action_size=action_size)
    config = micro.config_json(KIND, action_size)
    change(found, config)
    return micro.write_folder(path, found, config)


def values(source):
    return {key: leaf.read() for key, leaf in source.leaves.items()}


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, key)


@pytest.mark.parametrize("layout", [dict, micro.new_layout, micro.short_layout])
def test_every_tensor_is_read_under_each_release_s_names(tmp_path, layout):
    found = micro.tensors(kind=KIND)
    path = micro.write_folder(tmp_path / "a", layout(found), micro.config_json(KIND))
    source = open_source(path)
    assert_same(values(source), micro.big_vision_tree(found, KIND))
    c = source.config
    assert (c.backbone, c.layout, c.causal_text) == ("gemma3", "full", True)
    assert (c.pool, c.image_tokens, c.patches) == (2, 4, 16)
    assert (c.window, c.global_every) == (6, 2)
    assert (c.rope_base, c.rope_scale) == (1e6, 4.0)
    assert (c.vocab_size, c.newline_id) == (96, 4)


@pytest.mark.parametrize("kind", ["hugging_face", "npz", "orbax"])
@pytest.mark.parametrize("action_size", [None, 3])
def test_round_trips_keep_tensors_and_config(tmp_path, kind, action_size):
    first = open_source(folder(tmp_path / "a", action_size=action_size))
    middle = convert(first, tmp_path / ("b.npz" if kind == "npz" else "b"), kind)
    back = convert(open_source(middle), tmp_path / "c", "hugging_face")
    for path in (middle, back):
        again = open_source(path)
        assert again.config == first.config
        assert_same(values(again), values(first))
    said = json.loads((back / "config.json").read_text())["model_type"]
    assert said == ("gemma3" if action_size is None else "gemma3_wm")


def test_a_loaded_folder_answers(tmp_path):
    loaded = swm_jax.load(folder(tmp_path / "a"), scan=False)
    assert loaded.metadata["fresh"] == ["action"]
    image, actions = np.zeros((20, 30, 3), np.uint8), np.array([[0.1, -0.2]])
    model, tokenizer = loaded.world_model, loaded.tokenizer
    answer = model.answer(image, actions, "is?", tokenizer=tokenizer)
    assert 0 < answer.alternatives["yes"] < 1


def test_newer_files_say_layers_and_rope_in_another_way():
    config = micro.config_json(KIND)
    old = read_config(config, "here", None, {})
    text = config["text_config"]
    for name in ("rope_scaling", "sliding_window_pattern"):
        del text[name]
    text["layer_types"] = ["sliding_attention", "full_attention"]
    text["rope_parameters"] = {
        "full_attention": GEMMA3,
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    assert read_config(config, "here", None, {}) == old


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "rope_scaling",
            {"rope_type": "yarn"},
            r"RoPE of type 'yarn', expected linear",
        ),
        ("rope_local_base_freq", 5e3, r"5000.0.* in local layers"),
        ("layer_types", ["full_attention", "sliding_attention"], r"do not repeat"),
        ("final_logit_softcapping", 30.0, r"final_logit_softcapping 30.0"),
        ("use_bidirectional_attention", True, r"use_bidirectional_attention True"),
        ("rms_norm_eps", 1e-5, r"rms_norm_eps 1e-05"),
        ("model_type", "gemma2", r"text model of type 'gemma2', expected gemma3_text"),
    ],
)
def test_what_the_model_has_not_is_named(field, value, message):
    config = micro.config_json(KIND)
    config["text_config"][field] = value
    with pytest.raises(CheckpointError, match=message):
        read_config(config, "here", None, {})


def test_image_tokens_that_are_no_squares_are_named():
    config = micro.config_json(KIND) | {"mm_tokens_per_image": 9}
    with pytest.raises(CheckpointError, match=r"mm_tokens_per_image 9.*4 x 4 patches"):
        read_config(config, "here", None, {})


def test_missing_and_left_over_tensors_are_named(tmp_path):
    def change(found, config):
        found.pop("language_model.model.layers.1.self_attn.k_norm.weight")
        found["multi_modal_projector.linear.bias"] = np.zeros(32, np.float32)

    names = r"1.self_attn.k_norm.weight is missing; .*linear.bias is left over"
    with pytest.raises(CheckpointError, match=names):
        open_source(folder(tmp_path / "a", change))
