"""Checkpoints of others with one field or tensor dropped, nulled, retyped, reordered.

Opening and reading ends in success or in one error line, and a conversion that fails
leaves nothing behind.
"""

import json

import micro_checkpoints as micro
import numpy as np
import pytest
from fuzzing import applied, changes, forms, run_cases, told
from safetensors.numpy import save_file

from swm_jax.checkpoints import CheckpointError
from swm_jax.checkpoints.convert import convert
from swm_jax.checkpoints.formats.detect import open_source

KINDS = {"gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3_text"}
WAYS = {
    "null": lambda x: x[:0],
    "reorder": lambda x: np.ascontiguousarray(x[::-1]),
    "transpose": lambda x: np.ascontiguousarray(x.T),
    "flat": lambda x: x.reshape(-1),
    "deeper": lambda x: x[None],
    "scalar": lambda x: x.reshape(-1)[:1].reshape(()),
    "not finite": lambda x: np.full_like(x, np.nan),
    **{
        kind: lambda x, kind=kind: x.astype(kind)
        for kind in ("float16", "float64", "int8", "int64", "bool")
    },
}


def check(path, out, **options):
    """Every tensor is read, and a third of the conversions run to their end."""

    def read():
        source = open_source(path, **options)
        for leaf in source.leaves.values():
            leaf.read()
        return source

    line, source = told(CheckpointError, read)
    if source is not None:
        told(CheckpointError, lambda: convert(source, out))
        out.unlink(missing_ok=True)
    assert line or source
    assert not out.exists() and not list(out.parent.glob(".convert-*"))


@forms
@pytest.mark.parametrize("kind", KINDS)
def test_config_json(tmp_path, form, kind):
    config = micro.config_json(KINDS[kind], action_size=2)
    config["swm_jax"] = {"step": 3, "model": {"variant": "tiny", "overrides": {}}}
    if kind != "gemma3":
        config["text_config"]["rope_scaling"] = {"type": "linear", "factor": 1.0}
    found = micro.tensors(action_size=2, kind=KINDS[kind])
    folder = micro.write_folder(tmp_path / "in", found, config)
    file = folder / "config.json"

    def case(*made):
        file.write_text(json.dumps(applied(config, *made)))
        check(folder, tmp_path / "out.npz")

    run_cases(form, f"config of {kind}", changes(config), case)


@forms
def test_index_of_shards(tmp_path, form):
    config = micro.config_json(action_size=2)
    folder = micro.write_folder(
        tmp_path / "in", micro.tensors(action_size=2), config, shards=2
    )
    file = folder / "model.safetensors.index.json"
    tree = json.loads(file.read_text())

    def case(*made):
        file.write_text(json.dumps(applied(tree, *made)))
        check(folder, tmp_path / "out.npz")

    every = changes(tree)
    run_cases(form, "index", every if form == "short" else every[::7], case)


def tensor_cases(found):
    return [(name, way) for name in found for way in ("drop", "rename", *WAYS)]


def changed_tensors(found, made):
    changed = dict(found)
    for name, way in made:
        value = changed.pop(name, None)
        if value is None or way == "drop":
            continue
        if way == "rename":
            changed[f"{name}.more"] = value
        else:
            changed[name] = WAYS[way](value)
    return changed


@forms
def test_tensors_of_a_folder(tmp_path, form):
    found = micro.tensors(action_size=2)
    config = micro.config_json(action_size=2)
    folder = micro.write_folder(tmp_path / "in", found, config)

    def case(*made):
        save_file(changed_tensors(found, made), folder / "model.safetensors")
        check(folder, tmp_path / "out.npz")

    run_cases(form, "tensors", tensor_cases(found), case)


@forms
def test_header_of_safetensors(tmp_path, form):
    config = micro.config_json(action_size=2)
    folder = micro.write_folder(tmp_path / "in", micro.tensors(action_size=2), config)
    file = folder / "model.safetensors"
    kept = file.read_bytes()
    size = int.from_bytes(kept[:8], "little")
    tree = json.loads(kept[8 : 8 + size])

    def case(*made):
        text = json.dumps(applied(tree, *made)).encode()
        data = len(text).to_bytes(8, "little") + text + kept[8 + size :]
        file.write_bytes(data)
        check(folder, tmp_path / "out.npz")

    every = changes(tree)
    run_cases(form, "header", every if form == "short" else every[::17], case)


@forms
def test_members_of_an_npz(tmp_path, form):
    tree = micro.big_vision_tree(micro.tensors(action_size=2))
    path = tmp_path / "in.npz"

    def case(*made):
        micro.write_npz(path, changed_tensors(tree, made))
        check(path, tmp_path / "out.npz")

    run_cases(form, "members", tensor_cases(tree), case)


@forms
def test_description_in_an_npz(tmp_path, form):
    found = micro.tensors(action_size=2)
    folder = micro.write_folder(
        tmp_path / "folder", found, micro.config_json(action_size=2)
    )
    ours = convert(open_source(folder), tmp_path / "ours.npz")
    content = dict(np.load(ours))
    tree = json.loads(bytes(content["swm_jax/metadata"]))
    path = tmp_path / "in.npz"

    def case(*made):
        text = json.dumps(applied(tree, *made)).encode()
        np.savez(path, **{**content, "swm_jax/metadata": np.frombuffer(text, np.uint8)})
        check(path, tmp_path / "out.npz")

    run_cases(form, "description", changes(tree), case)


@forms
def test_files_that_are_cut_off_or_damaged(tmp_path, form):
    found = micro.tensors(action_size=2)
    config = micro.config_json(action_size=2)
    folder = micro.write_folder(tmp_path / "in", found, config, shards=2)
    npz = micro.write_npz(tmp_path / "in.npz", micro.big_vision_tree(found))
    files = [npz, *folder.iterdir()]
    kept = {file: file.read_bytes() for file in files}
    rng = np.random.default_rng(0)

    def case(*made):
        for file, way, at in made:
            content = bytearray(kept[file])
            place = at * len(content) // 40
            if way == "cut":
                del content[place:]
            elif way == "flip":
                content[place : place + 1] = bytes([content[place] ^ 0x41])
            else:
                content[place : place + 30] = rng.bytes(30)
            file.write_bytes(content)
        check(npz if made[0][0] == npz else folder, tmp_path / "out.npz")
        for file, _, _ in made:
            file.write_bytes(kept[file])

    ways = ("cut", "flip", "noise")
    every = [(file, way, at) for file in files for way in ways for at in range(40)]
    run_cases(form, "files", every, case)


@forms
def test_adapter_of_peft(tmp_path, form):
    base = micro.write_folder(
        tmp_path / "base",
        micro.tensors(action_size=2),
        micro.config_json(action_size=2),
    )
    folder = tmp_path / "in"
    folder.mkdir()
    prefix = "base_model.model.language_model.model.layers"
    rng = np.random.default_rng(0)
    found = {}
    for module in ("0.self_attn.q_proj", "1.self_attn.k_proj"):
        tall = 32 if "q_proj" in module else 8
        for side, shape in (("A", (4, 32)), ("B", (tall, 4))):
            name = f"{prefix}.{module}.lora_{side}.weight"
            found[name] = rng.normal(size=shape).astype(np.float32)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "init_lora_weights": True,
        "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {"k_proj": 2},
        "modules_to_save": None,
        "target_modules": ["q_proj"],
    }

    def case(*made):
        fields = [each for each in made if hasattr(each, "kind")]
        tensors = [each for each in made if not hasattr(each, "kind")]
        text = json.dumps(applied(config, *fields))
        (folder / "adapter_config.json").write_text(text)
        save_file(changed_tensors(found, tensors), folder / "adapter_model.safetensors")
        check(folder, tmp_path / "out.npz")

    run_cases(form, "adapter", [*changes(config), *tensor_cases(found)], case)
