"""Conversion: what others wrote is read to the bit, and written back to the bit."""

import json
import subprocess
import sys
from pathlib import Path

import micro_checkpoints as micro
import numpy as np
import pytest
from safetensors import safe_open

import swm_jax
from swm_jax.checkpoints import CheckpointError
from swm_jax.checkpoints.convert import convert, listing
from swm_jax.checkpoints.formats.detect import open_source, split_subtree
from swm_jax.checkpoints.formats.huggingface.keys import to_leaves
from swm_jax.checkpoints.formats.huggingface.table import canonical, rules_for
from swm_jax.checkpoints.formats.safetensors_files import list_tensors

ROOT = Path(__file__).parents[2]


def stored(folder):
    """Every tensor of a folder as bytes, shape and dtype, by oldest name."""
    found = list_tensors(folder)
    values = {}
    for usual, name in canonical(found).items():
        with safe_open(found[name].file, "np") as file:
            value = file.get_tensor(name)
        values[usual] = (value.shape, str(value.dtype), value.tobytes())
    return values


def as_bits(leaves):
    return {
        k: (v.shape, str(v.dtype), np.ascontiguousarray(v).tobytes())
        for k, v in leaves.items()
    }


def read_all(source):
    return as_bits({key: leaf.read() for key, leaf in source.leaves.items()})


@pytest.mark.parametrize("dtype", [np.float32, micro.BF16, np.float16])
@pytest.mark.parametrize("layout", ["old", "new", "short"])
def test_every_hugging_face_layout_is_read_as_big_visions_tree(tmp_path, layout, dtype):
    found = micro.tensors(action_size=5)
    tree = {k: v.astype(dtype) for k, v in micro.big_vision_tree(found).items()}
    found = {k: v.astype(dtype) for k, v in found.items()}
    renamed = {"old": dict, "new": micro.new_layout, "short": micro.short_layout}
    shards = {"old": 1, "new": 3, "short": 2}[layout]
    folder = micro.write_folder(
        tmp_path / "hf",
        renamed[layout](found),
        micro.config_json(action_size=5),
        shards=shards,
    )
    assert read_all(open_source(folder)) == as_bits(tree)


def test_gemma_2_norms_have_the_names_of_gemma_2(tmp_path):
    found = micro.tensors(kind="gemma2")
    tree = micro.big_vision_tree(found, "gemma2")
    folder = micro.write_folder(tmp_path / "hf", found, micro.config_json("gemma2"))
    shapes = {key: value.shape for key, value in tree.items()}
    leaves = to_leaves(shapes, list_tensors(folder), "here", check=True)
    assert as_bits({k: leaf.read() for k, leaf in leaves.items()}) == as_bits(tree)


@pytest.mark.parametrize("kind", ["hugging_face", "npz", "orbax"])
def test_round_trips_give_the_same_bits(tmp_path, kind):
    found = {k: v.astype(micro.BF16) for k, v in micro.tensors(action_size=2).items()}
    folder = micro.write_folder(
        tmp_path / "hf", found, micro.config_json(action_size=2)
    )
    first = open_source(folder)
    middle = convert(first, tmp_path / ("x.npz" if kind == "npz" else "x"), kind)
    assert open_source(middle).kind == kind
    assert open_source(middle).config == first.config
    assert read_all(open_source(middle)) == read_all(first)
    back = convert(open_source(middle), tmp_path / "back", "hugging_face", None)
    ours, theirs = stored(back), stored(folder)
    head = theirs.pop("language_model.lm_head.weight")  # tied: not written again
    table = "language_model.model.embed_tokens.weight"
    assert head == theirs[table]
    rows = micro.PIECES * 32 * 2  # placeholders and padding behind are not ours
    assert ours.pop(table)[2][:rows] == theirs.pop(table)[2][:rows]
    assert ours == theirs
    again = convert(open_source(back), tmp_path / "again", "hugging_face")
    assert stored(again) == stored(back)
    assert json.loads((again / "config.json").read_text()) == json.loads(
        (back / "config.json").read_text()
    )


@pytest.mark.parametrize("dtype", [np.float32, micro.BF16, np.float16])
@pytest.mark.parametrize("compressed", [False, True])
def test_big_vision_npz_is_read_and_written_as_it_stores_it(
    tmp_path, dtype, compressed
):
    tree = micro.big_vision_tree(micro.tensors())
    tree = {k: v.astype(dtype) for k, v in tree.items()}
    path = micro.write_npz(tmp_path / "a.npz", tree, compressed=compressed)
    source = open_source(path)
    assert source.config.layout == "full"
    assert (source.config.width, source.config.image_size) == (32, 16)
    assert read_all(source) == as_bits(tree)
    written = convert(source, tmp_path / "b.npz")
    with np.load(written, allow_pickle=False) as file:
        for key, value in tree.items():
            assert file[f"params/{key}"].dtype.str == (
                "|V2" if dtype == micro.BF16 else np.dtype(dtype).str
            )
            assert file[f"params/{key}"].tobytes() == value.tobytes()


def test_a_sub_tree_of_an_npz_is_read_alone(tmp_path):
    tree = micro.big_vision_tree(micro.tensors())
    path = micro.write_npz(tmp_path / "a.npz", tree, prefix="")
    assert split_subtree(f"{path}:img") == (path, "img")
    part = open_source(f"{path}:img")
    image = {k: v for k, v in tree.items() if k.startswith("img/")}
    assert read_all(part) == as_bits(image)
    convert(part, tmp_path / "img.npz")
    with np.load(tmp_path / "img.npz") as file:
        names = {k for k in file if k.startswith("params/")}
    assert names == {f"params/{k}" for k in image}
    assert {*swm_jax.load(f"{path}:img").params} == {"img"}
    with pytest.raises(CheckpointError, match="needs the whole model"):
        convert(part, tmp_path / "x", "hugging_face")
    with pytest.raises(CheckpointError, match="nothing under image"):
        open_source(f"{path}:image")


def test_an_optimizer_beside_the_parameters_is_told_and_left(tmp_path):
    tree = micro.big_vision_tree(micro.tensors())
    arrays = {f"params/{k}": v for k, v in tree.items()} | {"opt/count": np.array(3)}
    np.savez(tmp_path / "a.npz", **arrays)
    source = open_source(tmp_path / "a.npz")
    assert {*source.leaves} == {*tree}
    assert any("opt/count" in note for note in source.notes)


def test_a_slice_of_a_leaf_is_that_slice(tmp_path):
    found = micro.tensors(action_size=3)
    folder = micro.write_folder(tmp_path / "a", found, micro.config_json(action_size=3))
    npz = convert(open_source(folder), tmp_path / "a.npz")
    whole = micro.big_vision_tree(found)
    rng = np.random.default_rng(3)
    for source in (open_source(folder), open_source(npz)):
        for key, leaf in source.leaves.items():
            for _ in range(3):
                starts = [int(rng.integers(0, n)) for n in leaf.shape]
                index = tuple(
                    slice(a, int(rng.integers(a + 1, n + 1)))
                    for a, n in zip(starts, leaf.shape)
                )
                part = leaf.read(index)
                np.testing.assert_array_equal(part, whole[key][index], key)
                assert part.ctypes.data % 64 == 0


def test_dtype_of_the_target_is_asked_for(tmp_path):
    found = micro.tensors(action_size=2)
    folder = micro.write_folder(tmp_path / "a", found, micro.config_json(action_size=2))
    convert(open_source(folder), tmp_path / "b", "hugging_face", "bfloat16")
    for name, value in stored(tmp_path / "b").items():
        if "embed_tokens" not in name:
            assert value[1:] == ("bfloat16", found[name].astype(micro.BF16).tobytes())
    table = found["language_model.model.embed_tokens.weight"]
    table[0, 0] = 1e30
    big = micro.write_folder(tmp_path / "c", found, micro.config_json(action_size=2))
    with pytest.raises(CheckpointError, match=r"embed_tokens.*too large for float16"):
        convert(open_source(big), tmp_path / "d.npz", dtype="float16")


def test_shards_written_here_are_read_by_the_library(tmp_path):
    found = micro.tensors()
    folder = micro.write_folder(tmp_path / "a", found, micro.config_json())
    convert(open_source(folder), tmp_path / "b", "hugging_face", shard_bytes=20_000)
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "b" / file, "np") as shard:
            value = shard.get_tensor(name)
        if "embed_tokens" in name:  # padding repeats the mean row
            np.testing.assert_allclose(
                value[micro.PIECES :],
                np.broadcast_to(value[: micro.PIECES].mean(0), (32, 32)),
                atol=1e-6,
            )
            value, found[name] = value[: micro.PIECES], found[name][: micro.PIECES]
        np.testing.assert_array_equal(value, found[name], name)


def test_vocabulary_ends_where_the_placeholders_begin(tmp_path):
    config = micro.config_json(action_size=2)
    config |= {"image_token_index": micro.PIECES + 1}
    config.pop("action_token_index")
    config["action_token_id"] = micro.PIECES
    found = micro.tensors(action_size=2)
    source = open_source(micro.write_folder(tmp_path / "a", found, config))
    assert source.config.vocab_size == micro.PIECES
    assert source.metadata["placeholders"] == {"image": 97, "action": 96}
    assert any("32 rows" in note for note in source.notes)


def test_every_parameter_of_a_model_has_a_rule():
    shapes = {k: v.shape for k, v in micro.big_vision_tree(micro.tensors()).items()}
    with pytest.raises(CheckpointError, match="llm/other has no Hugging Face name"):
        rules_for({**shapes, "llm/other": (3,)})


def test_command_line_lists_and_converts(tmp_path):
    found = micro.tensors(action_size=2)
    folder = micro.write_folder(
        tmp_path / "hf", found, micro.config_json(action_size=2)
    )
    text = listing(open_source(folder))
    for name in ("llm/layers/mlp/linear", "mlp.down_proj.weight", "96", "float32"):
        assert name in text
    command = [sys.executable, "-m", "swm_jax.convert", str(folder)]
    done = subprocess.run(
        [
            *command,
            str(tmp_path / "out"),
            "--dtype=bfloat16",
            "--override=max_horizon=9",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out") in done.stdout.splitlines()[-1]
    loaded = swm_jax.load(tmp_path / "out")
    assert loaded.config.max_horizon == 9
    assert loaded.params["img"]["head"]["kernel"].dtype == micro.BF16
    again = subprocess.run(
        [*command, str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True
    )
    assert again.returncode == 1
    assert again.stderr.strip().count("\n") == 0
    assert "error:" in again.stderr and "exists" in again.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"hf", "out"}
