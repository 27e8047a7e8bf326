"""Corrupt input: one line that names what is wrong, and nothing is written."""

import json
import pickle

import micro_checkpoints as micro
import numpy as np
import pytest
from safetensors.numpy import save_file

import swm_jax
from swm_jax.checkpoints import CheckpointError
from swm_jax.checkpoints.convert import convert
from swm_jax.checkpoints.formats.detect import open_source


def folder_of(tmp_path, found=None, config=None, **options):
    found = micro.tensors(action_size=2) if found is None else found
    config = config or micro.config_json(action_size=2)
    return micro.write_folder(tmp_path / "hf", found, config, **options)


def refused(tmp_path, path, match, target="out", **options):
    """Neither load nor convert takes it; the message is one line."""
    with pytest.raises(CheckpointError, match=match) as caught:
        convert(open_source(path, **options), tmp_path / target)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=match):
        swm_jax.load(path, **options)
    assert not (tmp_path / target).exists()
    assert not list(tmp_path.glob(".convert-*"))


def test_truncated_safetensors(tmp_path):
    folder = folder_of(tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(tmp_path, folder, r"model.safetensors is damaged or cut off")


def test_truncated_npz(tmp_path):
    tree = micro.big_vision_tree(micro.tensors())
    path = micro.write_npz(tmp_path / "a.npz", tree)
    path.write_bytes(path.read_bytes()[:-3000])
    refused(tmp_path, path, r"a.npz is damaged or cut off")


def test_quantised_tensors(tmp_path):
    found = micro.tensors(action_size=2)
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    found[name] = found[name].astype(np.int8)
    folder = folder_of(tmp_path, found)
    refused(tmp_path, folder, rf"{name} has dtype I8, expected .*quantised")
    tree = micro.big_vision_tree(micro.tensors())
    tree["img/head/bias"] = tree["img/head/bias"].astype(np.int8)
    path = micro.write_npz(tmp_path / "a.npz", tree)
    refused(tmp_path, path, r"img/head/bias has dtype int8, expected .*quantised")


@pytest.mark.parametrize("dtype", [np.float32, micro.BF16, np.float16])
def test_nan_is_named_and_can_be_let_through(tmp_path, dtype):
    found = {k: v.astype(dtype) for k, v in micro.tensors(action_size=2).items()}
    name = "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight"
    found[name][3, 2] = np.nan
    folder = folder_of(tmp_path, found)
    refused(tmp_path, folder, rf"{name} holds NaN")
    path = convert(open_source(folder, check_finite=False), tmp_path / "a.npz")
    refused(tmp_path, path, r"MlpBlock_0/Dense_0/kernel holds NaN")
    ours = convert(open_source(path, check_finite=False), tmp_path / "orbax")
    refused(tmp_path, ours, r"MlpBlock_0/Dense_0/kernel holds NaN")
    params = swm_jax.load(ours, check_finite=False).params
    blocks = params["img"]["Transformer"]["encoderblock"]["MlpBlock_0"]
    assert np.isnan(np.asarray(blocks["Dense_0"]["kernel"])[1, 2, 3])


def test_missing_shard(tmp_path):
    folder = folder_of(tmp_path, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(tmp_path, folder, r"lacks the shard model-00002-of-00003.safetensors")


def test_index_and_shards_that_disagree(tmp_path):
    folder = folder_of(tmp_path, shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = next(iter(index["weight_map"]))
    del index["weight_map"][name]
    path.write_text(json.dumps(index))
    refused(tmp_path, folder, rf"{name} is in the shards only")
    index["weight_map"][name] = "../elsewhere.safetensors"
    path.write_text(json.dumps(index))
    refused(tmp_path, folder, r"elsewhere.safetensors, no file beside it")


def test_pickles_are_never_read(tmp_path):
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (marker.touch, ())

    np.savez(tmp_path / "a.npz", **{"params/x": np.array([Trap()], dtype=object)})
    refused(tmp_path, tmp_path / "a.npz", r"params/x is pickled")
    (tmp_path / "b.npz").write_bytes(pickle.dumps({"params": Trap()}))
    refused(tmp_path, tmp_path / "b.npz", r"b.npz is a pickle")
    np.savez(tmp_path / "c.npz", a=np.zeros(3))
    import zipfile

    with zipfile.ZipFile(tmp_path / "d.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
    refused(tmp_path, tmp_path / "d.bin", r"data.pkl is not an array; a PyTorch file")
    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"")
    refused(tmp_path, folder, r"no .safetensors; pytorch_model.bin is a pickle")
    assert not marker.exists()


@pytest.mark.parametrize(
    "part, name, value, match",
    [
        ("text_config", "num_hidden_layers", 3, r"layers.2.* is missing"),
        ("text_config", "num_hidden_layers", 1, r"layers.1.* is left over"),
        ("text_config", "intermediate_size", 64, r"shape \(.*\), not \(.*64"),
        ("text_config", "vocab_size", 256, r"vocab_size 256, .* has 128 rows"),
        ("vision_config", "image_size", 32, r"position_embedding.*\(16, 24\), not"),
        ("text_config", "rope_theta", 5e5, r"rope_theta 500000.0, this model has"),
        (None, "model_type", "llava", r"model_type 'llava', expected paligemma"),
        (None, "model_type", "paligemma", r"action_projector.* is left over"),
        (None, "action_input_dim", 7, r"action_projector.*shape \(32, 2\), not"),
        (None, "image_token_index", None, r"no image_token_index"),
        (None, "quantization_config", {"bits": 4}, r"quantised checkpoint"),
        (None, "eos_token_id", 7, r"eos_token_id 7, its tokenizer 1"),
    ],
)
def test_config_that_disagrees_with_the_tensors(tmp_path, part, name, value, match):
    config = micro.config_json(action_size=2)
    (config[part] if part else config)[name] = value
    refused(tmp_path, folder_of(tmp_path, config=config), match)


def test_untied_output_head(tmp_path):
    found = micro.tensors(action_size=2)
    head = found["language_model.lm_head.weight"].copy()
    head[5, 5] += 1
    found["language_model.lm_head.weight"] = head
    refused(tmp_path, folder_of(tmp_path, found), r"lm_head.weight differs from .*tied")


def test_left_over_and_doubled_tensors(tmp_path):
    found = micro.tensors(action_size=2)
    found["language_model.model.layers.0.lora.weight"] = np.zeros(3, np.float32)
    folder = folder_of(tmp_path, found)
    refused(tmp_path, folder, r"layers.0.lora.weight is left over")
    del found["language_model.model.layers.0.lora.weight"]
    bias = found["multi_modal_projector.linear.bias"]
    found["model.multi_modal_projector.linear.bias"] = bias
    save_file(found, folder / "model.safetensors")
    refused(tmp_path, folder, r"are the same parameter")


def test_tokenizer_of_another_vocabulary(tmp_path):
    small = micro.sentencepiece_model(pieces=80)
    folder = folder_of(tmp_path, tokenizer=small)
    refused(tmp_path, folder, r"80 pieces, config.json a vocabulary of 96")
    assert swm_jax.load(folder, tokenizer=folder).tokenizer.vocab_size == 80
    large = micro.sentencepiece_model(pieces=120)
    (folder / "tokenizer.model").write_bytes(large)
    refused(tmp_path, folder, r"image token at 96, its tokenizer 120 pieces")
    swapped = micro.sentencepiece_model(eos_id=2, bos_id=1)
    (folder / "tokenizer.model").write_bytes(swapped)
    refused(tmp_path, folder, r"eos_token_id 1, its tokenizer 2")
    (folder / "tokenizer.model").write_bytes(b"no model")
    refused(tmp_path, folder, r"is not a SentencePiece model")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer: name a SentencePiece"):
        convert(open_source(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_things_that_are_no_checkpoint(tmp_path):
    refused(tmp_path, tmp_path / "nowhere", r"does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, tmp_path / "empty", r"is no checkpoint")
    (tmp_path / "a.npz").write_bytes(b"hello, world")
    refused(tmp_path, tmp_path / "a.npz", r"of no known format")
    folder = folder_of(tmp_path)
    refused(tmp_path, folder / "model.safetensors", r"one safetensors file")
    with pytest.raises(CheckpointError, match="leave the variant out"):
        open_source(folder, variant="tiny")
