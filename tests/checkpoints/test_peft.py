"""PEFT's LoRA adapters on their base, against W + scale B A computed in numpy."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import micro_checkpoints as micro
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

import swm_jax
from swm_jax.checkpoints import CheckpointError, load_adapter
from swm_jax.checkpoints.convert import convert
from swm_jax.checkpoints.formats.detect import open_source
from swm_jax.models.backbones.weights import named_leaves

ROOT = Path(__file__).parents[2]
TEXT, TOWER = (
    "language_model.model.layers.",
    "vision_tower.vision_model.encoder.layers.",
)
MODULES = [
    f"{TEXT}0.self_attn.q_proj",
    f"{TEXT}1.self_attn.k_proj",
    f"{TEXT}0.self_attn.v_proj",
    f"{TEXT}1.self_attn.o_proj",
    f"{TEXT}0.mlp.gate_proj",
    f"{TEXT}1.mlp.up_proj",
    f"{TEXT}1.mlp.down_proj",
    f"{TOWER}1.self_attn.q_proj",
    f"{TOWER}0.self_attn.out_proj",
    f"{TOWER}0.mlp.fc1",
    "multi_modal_projector.linear",
]
SETTINGS = {
    "peft_type": "LORA",
    "base_model_name_or_path": "google/paligemma-3b-pt-224",
    "r": 4,
    "lora_alpha": 6,
    "lora_dropout": 0.1,
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "target_modules": ["q_proj", "k_proj"],
    "task_type": "CAUSAL_LM",
    "inference_mode": True,
}


def base_tensors(dtype=np.float32):
    return micro.tensors(seed=3, action_size=2, dtype=dtype)


def factors_of(found, modules=MODULES, rank=4, seed=5):
    rng = np.random.default_rng(seed)
    result = {}
    for module in modules:
        tall, wide = found[f"{module}.weight"].shape
        r = rank(module) if callable(rank) else rank
        result[module] = (
            rng.normal(size=(r, wide)).astype(np.float32),
            rng.normal(size=(tall, r)).astype(np.float32),
        )
    return result


def newer(name):
    """The module's name in later releases of transformers."""
    return next(iter(micro.new_layout({f"{name}.weight": 0}))).removesuffix(".weight")


def adapter(path, factors, renamed=str, part="", **settings):
    path.mkdir()
    tensors = {
        f"base_model.model.{renamed(module)}.lora_{side}{part}.weight": factor
        for module, pair in factors.items()
        for side, factor in zip("AB", pair)
    }
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({**SETTINGS, **settings}))
    return path


def merged(path, found, factors, scale):
    """The folder of the model with the products added by hand."""
    changed = {name: value.astype(np.float32) for name, value in found.items()}
    for module, (a, b) in factors.items():
        name = f"{module}.weight"
        of = scale(module) if callable(scale) else scale
        exact = found[name].astype(np.float64) + of * b.astype(np.float64) @ a
        changed[name] = exact.astype(np.float32)
    return micro.write_folder(path, changed, micro.config_json(action_size=2))


def folder_of(path, found):
    return micro.write_folder(path, found, micro.config_json(action_size=2))


def assert_same(params, folder, atol=1e-5):
    expected = named_leaves(swm_jax.load(folder, param_dtype="float32").params)
    seen = named_leaves(params)
    assert seen.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(
            np.asarray(seen[key], np.float32), value, atol=atol, err_msg=key
        )


@pytest.mark.parametrize("renamed", [str, newer], ids=["old names", "new names"])
@pytest.mark.parametrize("part", ["", ".default"])
def test_adapter_of_every_kind_of_layer_is_merged(tmp_path, renamed, part):
    found = base_tensors()
    factors = factors_of(found)
    path = adapter(tmp_path / "lora", factors, renamed, part)
    loaded = load_adapter(path, folder_of(tmp_path / "base", found))
    assert_same(loaded.params, merged(tmp_path / "sum", found, factors, 6 / 4))
    untouched = swm_jax.load(tmp_path / "base").params["llm"]["embedder"]
    np.testing.assert_array_equal(
        loaded.params["llm"]["embedder"]["input_embedding"],
        untouched["input_embedding"],
    )
    assert loaded.tokenizer.vocab_size == micro.PIECES


def test_scale_follows_patterns_and_rank_stabilisation(tmp_path):
    found = base_tensors()
    rank = lambda module: 2 if module.endswith("gate_proj") else 4
    alpha = lambda module: 3 if "0.self_attn" in module else 6
    factors = factors_of(found, rank=rank)
    path = adapter(
        tmp_path / "lora",
        factors,
        use_rslora=True,
        rank_pattern={"gate_proj": 2},
        alpha_pattern={r".*\.0\.self_attn\..*": 3, "nothing": 100},
    )
    loaded = load_adapter(path, folder_of(tmp_path / "base", found))
    scale = lambda module: alpha(module) / math.sqrt(rank(module))
    assert_same(loaded.params, merged(tmp_path / "sum", found, factors, scale))


@pytest.mark.parametrize("form", ["npz", "orbax"])
def test_base_may_be_of_any_format(tmp_path, form):
    found = base_tensors()
    factors = factors_of(found)
    path = adapter(tmp_path / "lora", factors)
    source = open_source(folder_of(tmp_path / "folder", found))
    base = convert(source, tmp_path / f"base.{form}", form)
    loaded = load_adapter(path, base)
    assert_same(loaded.params, merged(tmp_path / "sum", found, factors, 6 / 4))


def test_sum_is_rounded_once_to_the_dtype_of_the_base(tmp_path):
    found = base_tensors(micro.BF16)
    factors = factors_of(found)
    path = adapter(tmp_path / "lora", factors)
    base = folder_of(tmp_path / "base", found)
    whole = merged(tmp_path / "sum", found, factors, 6 / 4)
    leaves = open_source(whole).leaves
    for key, leaf in open_source(path, base=base).leaves.items():
        exact = leaves[key].read(dtype=np.float32)
        assert leaf.dtype == micro.BF16 and leaf.read().dtype == micro.BF16
        # A second rounding, of the product, would cost another half of a step.
        step = 2.0 ** (np.floor(np.log2(np.abs(exact) + 1e-9)) - 7)
        off = np.abs(leaf.read().astype(np.float32) - exact)
        assert (off <= step / 2 + 1e-5).all(), key


def test_every_part_of_a_parameter_has_its_part_of_the_sum(tmp_path):
    found = base_tensors()
    factors = factors_of(found)
    path = adapter(tmp_path / "lora", factors)
    source = open_source(path, base=folder_of(tmp_path / "base", found))
    rng = np.random.default_rng(0)
    for leaf in source.leaves.values():
        whole = leaf.read()
        for _ in range(5):
            start = [int(rng.integers(n)) for n in leaf.shape]
            stop = [int(rng.integers(s, n)) + 1 for s, n in zip(start, leaf.shape)]
            cut = tuple(map(slice, start, stop))
            np.testing.assert_allclose(leaf.read(cut), whole[cut], atol=1e-6)


def test_adapter_is_read_into_target_shardings(tmp_path):
    found = base_tensors()
    factors = factors_of(found)
    path = adapter(tmp_path / "lora", factors)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
    place = NamedSharding(mesh, PartitionSpec())
    base = folder_of(tmp_path / "base", found)
    loaded = load_adapter(path, base, param_dtype="float32", sharding=place)
    assert all(x.sharding == place for x in jax.tree.leaves(loaded.params))
    assert_same(loaded.params, merged(tmp_path / "sum", found, factors, 6 / 4))


def test_command_writes_the_merged_model(tmp_path):
    found = base_tensors()
    factors = factors_of(found)
    path = adapter(tmp_path / "lora", factors)
    folder_of(tmp_path / "base", found)
    command = [sys.executable, "-m", "swm_jax.convert", path, tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "trained on google/paligemma-3b-pt-224, and holds no model" in done.stderr
    command += [f"--base={tmp_path / 'base'}", "--format=hugging_face"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "11 matrices have the adapter" in done.stdout
    whole = merged(tmp_path / "sum", found, factors, 6 / 4)
    assert_same(swm_jax.load(tmp_path / "out").params, whole)


def test_base_is_found_where_peft_had_it(tmp_path):
    found = base_tensors()
    factors = factors_of(found)
    folder_of(tmp_path / "base", found)
    for i, name in enumerate((str(tmp_path / "base"), "../base")):
        path = adapter(tmp_path / f"lora{i}", factors, base_model_name_or_path=name)
        loaded = load_adapter(path)
        whole = merged(tmp_path / f"sum{i}", found, factors, 6 / 4)
        assert_same(loaded.params, whole)


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3', expected LORA"),
        ({"use_dora": True}, "use_dora True, which is not supported: merge it"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out True, which is not supported"),
        ({"bias": "lora_only"}, "bias 'lora_only', which is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save .* is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication .* is not supported"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"r": 8}, r"says rank 8 for .*, its factors have 4"),
        ({"r": "4"}, "r '4', expected a whole number"),
        ({"lora_alpha": None}, "lora_alpha None, expected a number above 0"),
        ({"use_rslora": "yes"}, "use_rslora 'yes'"),
        ({"alpha_pattern": ["a"]}, "alpha_pattern is .*, expected an object"),
        ({"alpha_pattern": {"(": 2}}, "no regular expression"),
        ({"rank_pattern": {"q_proj": 0}}, "q_proj 0, expected a whole number"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, settings, match):
    found = base_tensors()
    base = folder_of(tmp_path / "base", found)
    path = adapter(tmp_path / "lora", factors_of(found), **settings)
    with pytest.raises(CheckpointError, match=match) as caught:
        load_adapter(path, base)
    assert "\n" not in str(caught.value)


def change(path, edit):
    from safetensors.numpy import load_file

    file = path / "adapter_model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


Q = f"base_model.model.{TEXT}0.self_attn.q_proj"


@pytest.mark.parametrize(
    "edit, match",
    [
        (lambda x: x.pop(f"{Q}.lora_A.weight"), "q_proj has one factor only"),
        (
            lambda x: x.update({f"{Q}.lora_magnitude_vector": np.ones(32)}),
            "lora_magnitude_vector has dtype F64|lora_magnitude_vector is no LoRA",
        ),
        (
            lambda x: x.update({f"{Q}.lora_embedding_A": np.ones(3, np.float32)}),
            "lora_embedding_A is no LoRA factor of a linear layer",
        ),
        (
            lambda x: x.update({f"{Q}.lora_B.weight": np.ones((9, 4), np.float32)}),
            r"q_proj has factors \(4, 32\) and \(9, 4\) for a matrix \(32, 32\)",
        ),
        (
            lambda x: x.update(
                {
                    "base_model.model.lm_head.lora_A.weight": np.ones((4, 32), "f4"),
                    "base_model.model.lm_head.lora_B.weight": np.ones((128, 4), "f4"),
                }
            ),
            "does not fit .*: lm_head is no linear layer of it",
        ),
        (
            lambda x: x.update(
                {
                    "base_model.model.other.lora_A.weight": np.ones((4, 32), "f4"),
                    "base_model.model.other.lora_B.weight": np.ones((32, 4), "f4"),
                }
            ),
            "does not fit .*: other is no linear layer of it",
        ),
        (lambda x: x.clear(), "it is empty"),
        (lambda x: x[f"{Q}.lora_A.weight"].fill(np.nan), "lora_A.weight holds NaN"),
    ],
)
def test_factors_that_do_not_fit_are_named(tmp_path, edit, match):
    found = base_tensors()
    base = folder_of(tmp_path / "base", found)
    path = adapter(tmp_path / "lora", factors_of(found))
    change(path, edit)
    with pytest.raises(CheckpointError, match=match):
        load_adapter(path, base)


def test_an_adapter_says_what_it_is_and_what_to_do(tmp_path):
    found = base_tensors()
    path = adapter(tmp_path / "lora", factors_of(found))
    for read in (swm_jax.load, open_source, load_adapter):
        with pytest.raises(CheckpointError, match=r"adapter that PEFT .*base=FOLDER"):
            read(path)
    file = path / "adapter_model.safetensors"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    base = folder_of(tmp_path / "base", found)
    with pytest.raises(CheckpointError, match=r"is a Git LFS pointer.*git lfs pull"):
        load_adapter(path, base)
    file.rename(path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model.bin is a pickle, never"):
        load_adapter(path, base)
    with pytest.raises(CheckpointError, match="is no adapter of PEFT: leave the base"):
        open_source(base, base=base)


def test_pointers_and_other_tokenizers_say_what_to_do(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
    folder = folder_of(tmp_path / "a", base_tensors())
    for name in ("tokenizer.model", "model.safetensors", "config.json"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(pointer)
        with pytest.raises(CheckpointError, match=rf"{name} is a Git LFS pointer"):
            swm_jax.load(folder)
        (folder / name).write_bytes(kept)
    (tmp_path / "a.npz").write_bytes(pointer)
    with pytest.raises(CheckpointError, match=r"a.npz is a Git LFS pointer"):
        swm_jax.load(tmp_path / "a.npz")
    (folder / "tokenizer.model").rename(tmp_path / "kept.model")
    (folder / "tokenizer.json").write_text("{}")
    notes = open_source(folder).notes
    assert any("tokenizer.json is not read: take tokenizer.model" in x for x in notes)
    for place in (folder, folder / "tokenizer.json"):
        with pytest.raises(ValueError, match=r"tokenizer.json is not read, only"):
            swm_jax.load(folder, tokenizer=place)
    with pytest.raises(CheckpointError, match=r"no tokenizer.*tokenizer.json"):
        convert(open_source(folder), tmp_path / "out")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has a tokenizer, but neither config"):
        swm_jax.load(alone)
