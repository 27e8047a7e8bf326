"""config.json of others: what changes the numbers is used, or refused by name."""

import json

import micro_checkpoints as micro
import numpy as np
import pytest

import swm_jax
from swm_jax.checkpoints import CheckpointError
from swm_jax.checkpoints.convert import convert
from swm_jax.checkpoints.formats.detect import open_source
from swm_jax.checkpoints.formats.huggingface.config import read_config

QUICK = dict(dtype="float32", remat="none", max_horizon=4)
LINEAR = {"type": "linear", "factor": 2}


def config_of(kind="gemma", part="text_config", **fields):
    config = micro.config_json(kind, action_size=2)
    (config[part] if part else config).update(fields)
    return config


def folder_of(path, config=None, found=None, kind="gemma"):
    found = micro.tensors(action_size=2, kind=kind) if found is None else found
    return micro.write_folder(path, found, config or config_of(kind))


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
@pytest.mark.parametrize(
    "fields, match",
    [
        ({"rope_scaling": LINEAR}, "has rope_scaling .*'factor': 2"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "has rope_scaling"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "has rope_parameters"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "RoPE of type 'dynamic'"),
        ({"rope_scaling": {"factor": 2}}, "RoPE of type 'default' with"),
        ({"rope_scaling": {"type": "linear"}}, "has factor 0, expected a number above"),
        ({"rope_scaling": {"type": "yarn", "rope_type": "linear"}}, "of two types"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object"),
        (
            {"hidden_activation": "gelu"},
            "hidden_activation 'gelu', this model has gelu",
        ),
        ({"hidden_act": "silu"}, "hidden_act 'silu', this model has gelu_pytorch_tanh"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu', this model has gelu_pytorch_tanh"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps 1e-05, this model has 1e-06"),
        ({"attention_bias": True}, "attention_bias True, this model has False"),
        ({"use_bidirectional_attention": False}, "use_bidirectional_attention False"),
        ({"add_cross_attention": True}, "add_cross_attention True"),
        ({"hidden_size": "32"}, "hidden_size '32', expected a whole number"),
        ({"head_dim": None}, "head_dim None, expected a whole number"),
    ],
)
def test_text_fields_that_change_numbers_are_refused(kind, fields, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read_config(config_of(kind, **fields), "here", None, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"hidden_act": "gelu"}, "vision_config has hidden_act 'gelu'"),
        ({"hidden_act": "quick_gelu"}, "vision_config has hidden_act 'quick_gelu'"),
        ({"layer_norm_eps": 1e-5}, "vision_config has layer_norm_eps 1e-05"),
        ({"num_channels": 1}, "vision_config has num_channels 1"),
        ({"vision_use_head": True}, "vision_config has vision_use_head True"),
        ({"model_type": "clip_vision_model"}, "model_type 'clip_vision_model'"),
    ],
)
def test_vision_fields_that_change_numbers_are_refused(fields, match):
    with pytest.raises(CheckpointError, match=match):
        read_config(config_of(part="vision_config", **fields), "here", None, {})


def test_windows_that_cut_off_what_our_model_sees_are_refused():
    for window in (None, 4096, 8192):
        read_config(config_of("gemma2", sliding_window=window), "here", None, {})
    with pytest.raises(CheckpointError, match="sliding_window 512, this model"):
        read_config(config_of("gemma2", sliding_window=512), "here", None, {})


def test_gemma_3_takes_linear_scaling_by_its_older_name():
    config = micro.config_json("gemma3_text")
    config["text_config"]["rope_scaling"] = LINEAR
    assert read_config(config, "here", None, {}).rope_scale == 2.0
    for bad in ({"type": "dynamic", "factor": 2}, {"type": "linear", "factor": "2"}):
        config["text_config"]["rope_scaling"] = bad
        with pytest.raises(CheckpointError, match=r"RoPE of type|factor '2'"):
            read_config(config, "here", None, {})


HARMLESS = [
    {"rope_scaling": None, "rope_parameters": {"rope_theta": 1e4, "type": "default"}},
    {"rope_scaling": {"type": "linear", "factor": 1.0}},
    {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu"},  # as published
    {"hidden_activation": None, "hidden_act": "gelu_pytorch_tanh"},
    {"use_bidirectional_attention": True},
    {"attention_dropout": 0.1, "max_position_embeddings": 8192, "torch_dtype": "x"},
    {"top_k": 50, "is_decoder": True, "id2label": {"0": "a"}, "mystery": None},
]


@pytest.mark.parametrize("fields", HARMLESS)
def test_fields_that_change_no_number_are_taken_in_silence(tmp_path, fields, capfd):
    plain = read_config(config_of(), "here", None, {})
    config = config_of(**fields)
    assert read_config(config, "here", None, {}) == plain
    source = open_source(folder_of(tmp_path / "a", config))
    assert not source.doubts


def test_fields_of_no_known_kind_are_named(tmp_path, capfd):
    config = config_of(mystery=3) | {"riddle": [1]}
    config["vision_config"]["puzzle"] = "x"
    folder = folder_of(tmp_path / "a", config)
    names = "riddle, text_config.mystery, vision_config.puzzle"
    assert any(names in note for note in open_source(folder).notes)
    swm_jax.load(folder, **QUICK)
    assert names in capfd.readouterr().err


@pytest.mark.parametrize("place", ["text_config", None])
def test_untied_head_that_equals_the_embedding_is_loadable(tmp_path, place):
    config = config_of(part=place, tie_word_embeddings=False)
    folder = folder_of(tmp_path / "a", config)
    plain = folder_of(tmp_path / "b")
    for key, leaf in open_source(folder).leaves.items():
        np.testing.assert_array_equal(
            leaf.read(), open_source(plain).leaves[key].read()
        )
    found = micro.tensors(action_size=2)
    head = found["language_model.lm_head.weight"].copy()
    head[3, 3] += 1
    folder = folder_of(tmp_path / "c", config, {**found, HEAD: head})
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from"):
        swm_jax.load(folder)
    del found[HEAD]
    with pytest.raises(CheckpointError, match="no output head beside the embedding"):
        swm_jax.load(folder_of(tmp_path / "d", config, found))


HEAD = "language_model.lm_head.weight"
BUFFERS = {
    "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": np.float32,
    "language_model.model.layers.1.self_attn.rotary_emb.inv_freq": np.float32,
    "model.language_model.rotary_emb.inv_freq": np.float32,
    "model.language_model.rotary_emb_local.inv_freq": np.float32,
    "vision_tower.vision_model.embeddings.position_ids": np.int64,
}


@pytest.mark.parametrize("shards", [1, 3])
def test_buffers_are_left_out_with_a_note(tmp_path, shards):
    found = micro.tensors(action_size=2)
    more = {name: np.arange(4).astype(dtype) for name, dtype in BUFFERS.items()}
    config = config_of()
    folder = micro.write_folder(tmp_path / "a", found | more, config, shards=shards)
    source = open_source(folder)
    assert any(
        "5 buffers" in note and "rotary_emb.inv_freq" in note for note in source.notes
    )
    plain = open_source(folder_of(tmp_path / "b"))
    for key, leaf in plain.leaves.items():
        np.testing.assert_array_equal(source.leaves[key].read(), leaf.read())
    convert(source, tmp_path / "c.npz")
    found["language_model.model.layers.0.position"] = np.zeros(3, np.int64)
    folder = folder_of(tmp_path / "d", found=found)
    with pytest.raises(CheckpointError, match=r"layers.0.position has dtype I64"):
        open_source(folder)


def test_what_we_write_has_known_fields_alone(tmp_path):
    for kind in ("gemma", "gemma2", "gemma3_text"):
        source = open_source(folder_of(tmp_path / kind, kind=kind))
        back = convert(source, tmp_path / f"{kind}-back", "hugging_face")
        assert open_source(back).doubts == ()
        text = json.loads((back / "config.json").read_text())
        assert read_config(text, "here", source.tokenizer, {}) == source.config
