"""swm_jax.load: one call for every format, each device reading its part."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import micro_checkpoints as micro
import numpy as np
import pytest

import swm_jax
from swm_jax.checkpoints import export_model, shipped_checkpoint
from swm_jax.checkpoints.convert import convert
from swm_jax.checkpoints.formats.detect import open_source
from swm_jax.eval.config import UserError, preset
from swm_jax.eval.world_models import load_learned
from swm_jax.models import Tokenizer
from swm_jax.models.backbones.weights import named_leaves

ROOT = Path(__file__).parents[2]
QUICK = dict(dtype="float32", remat="none", max_horizon=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return micro.write_folder(
        tmp_path_factory.mktemp("hf") / "wm",
        micro.tensors(action_size=2),
        micro.config_json(action_size=2),
    )


def ask(loaded):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    actions = np.array([[0.1, -0.2], [0.3, 0.1]])
    model, tokenizer = loaded.world_model, loaded.tokenizer
    return model.answer(image, actions, "is?", tokenizer=tokenizer).alternatives


def test_every_format_loads_and_gives_the_same_answer(folder, tmp_path):
    source = open_source(folder)
    paths = [
        folder,
        convert(source, tmp_path / "a.npz"),
        convert(source, tmp_path / "orbax"),
        convert(source, tmp_path / "again", "hugging_face"),
    ]
    answers = []
    for path in paths:
        loaded = swm_jax.load(path, **QUICK)
        assert loaded.config.layout == "full"
        assert loaded.tokenizer.vocab_size == micro.PIECES
        assert loaded.tokenizer.newline_id == loaded.config.newline_id
        shown = loaded.preprocess(np.zeros((7, 9, 3), np.uint8))
        assert shown.shape == (16, 16, 3) and float(shown[0, 0, 0]) == -1.0
        answers.append(ask(loaded))
    assert sum(answers[0].values()) == pytest.approx(1.0)
    assert all(answer == answers[0] for answer in answers)


def test_a_plain_paligemma_gets_a_fresh_action_projector(tmp_path):
    found = micro.tensors()
    path = micro.write_folder(tmp_path / "hf", found, micro.config_json())
    first = swm_jax.load(path, **QUICK)
    assert first.metadata["fresh"] == ["action"]
    assert first.params["action"]["kernel"].shape == (2, 32)
    assert 0 < ask(first)["yes"] < 1
    converted = convert(open_source(path), tmp_path / "ours")
    second = swm_jax.load(converted, **QUICK)
    assert second.metadata["fresh"] == ["action"]
    np.testing.assert_array_equal(
        first.params["action"]["kernel"], second.params["action"]["kernel"]
    )
    exported = export_model(converted, tmp_path / "exported")
    assert ask(swm_jax.load(exported, **QUICK)) == ask(first)


def test_a_gemma_2_folder_loads_with_its_constants(tmp_path):
    config = micro.config_json("gemma2")
    config["text_config"] |= {"query_pre_attn_scalar": 16, "final_logit_softcapping": 9}
    path = micro.write_folder(tmp_path / "a", micro.tensors(kind="gemma2"), config)
    loaded = swm_jax.load(path, **QUICK)
    c = loaded.config
    assert (c.post_norms, c.query_width) == (True, 16)
    assert (c.attention_softcap, c.final_softcap) == (50.0, 9)
    npz = convert(open_source(path), tmp_path / "a.npz")
    back = convert(open_source(npz), tmp_path / "b", "hugging_face")
    assert ask(swm_jax.load(back, **QUICK)) == ask(loaded)


def test_parameters_keep_their_dtype_but_for_norms_that_are_added_to_one(tmp_path):
    found = {k: v.astype(micro.BF16) for k, v in micro.tensors(action_size=2).items()}
    path = micro.write_folder(tmp_path / "a", found, micro.config_json(action_size=2))
    for where in (path, convert(open_source(path), tmp_path / "b")):
        params = named_leaves(swm_jax.load(where).params)
        for key, value in params.items():
            norm = key.startswith("llm/") and "norm" in key
            assert value.dtype == (jnp.float32 if norm else jnp.bfloat16), key
        wide = named_leaves(swm_jax.load(where, param_dtype="float32").params)
        assert {x.dtype for x in wide.values()} == {np.dtype("float32")}


def test_an_npz_without_description_takes_variant_and_tokenizer(tmp_path):
    loaded = swm_jax.load()
    tree = {key: np.asarray(x) for key, x in named_leaves(loaded.params).items()}
    path = micro.write_npz(tmp_path / "a.npz", tree)
    guessed = swm_jax.load(path)
    assert guessed.config.variant == "tiny" and guessed.tokenizer is None
    named = swm_jax.load(path, variant="tiny", tokenizer="tiny")
    assert named.config == loaded.config
    jax.tree.map(np.testing.assert_array_equal, named.params, loaded.params)
    with pytest.raises(ValueError, match="more than the 512 rows"):
        large = Tokenizer(micro.sentencepiece_model(pieces=600))
        swm_jax.load(path, tokenizer=large)
    with pytest.raises(ValueError, match=r"kernel has shape .*expected"):
        swm_jax.load(path, variant="small")


def test_the_shipped_model_survives_every_format(tmp_path):
    first = swm_jax.load()
    path = shipped_checkpoint()
    for name, kind in (("a.npz", None), ("hf", "hugging_face"), ("orbax", None)):
        path = convert(open_source(path), tmp_path / name, kind)
        loaded = swm_jax.load(path)
        assert loaded.config == first.config
        assert loaded.metadata["step"] == first.metadata["step"]
        assert loaded.tokenizer.model == first.tokenizer.model
        jax.tree.map(np.testing.assert_array_equal, loaded.params, first.params)


def test_the_evaluation_takes_a_hugging_face_folder(folder, tmp_path):
    shipped = load_learned(preset("demo"))
    path = convert(open_source(shipped_checkpoint()), tmp_path / "hf", "hugging_face")
    learned = load_learned(preset("demo", checkpoint=str(path)))
    assert learned.identity == shipped.identity
    assert learned.facts["step"] == shipped.facts["step"]
    with pytest.raises(UserError, match="vocabulary does not fit the board"):
        load_learned(preset("demo", checkpoint=str(folder)))


SHARDED = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import swm_jax
from swm_jax.checkpoints.formats import lazy_arrays

mesh = jax.make_mesh((4,), ("fsdp",))
read, most = lazy_arrays.Leaf.read, {}

def spy(self, index=None, dtype=None):
    out = read(self, index, dtype)
    most[self.origin] = max(most.get(self.origin, 0), out.size / self.size)
    return out

def place(key, struct):
    axes = [i for i, n in enumerate(struct.shape) if n % 4 == 0]
    spec = [None] * len(struct.shape)
    if axes:
        spec[axes[-1]] = "fsdp"
    return NamedSharding(mesh, P(*spec))

lazy_arrays.Leaf.read = spy
for path in sys.argv[1:]:
    most.clear()
    sharded = swm_jax.load(path, sharding=place).params
    assert path.endswith("orbax") or max(most.values()) == 0.25, most
    whole = swm_jax.load(path, sharding=jax.sharding.SingleDeviceSharding(
        jax.devices()[0]), param_dtype="float32").params
    jax.tree.map(np.testing.assert_array_equal, sharded, whole)
    table = sharded["llm"]["embedder"]["input_embedding"]
    assert [s.data.shape for s in table.addressable_shards] == [(96, 8)] * 4
print("same")
"""


def test_devices_read_their_shards_only(folder, tmp_path):
    source = open_source(folder)
    paths = [
        folder,
        convert(source, tmp_path / "a.npz"),
        convert(source, tmp_path / "orbax"),
    ]
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().endswith("same"), done.stderr


def test_tokenizer_is_read_from_a_folder_with_its_own_ids(folder):
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.model == (folder / "tokenizer.model").read_bytes()
    assert (tokenizer.eos_id, tokenizer.bos_id) == (1, 2)
    assert not tokenizer.shipped and Tokenizer.load("tiny").shipped
    assert tokenizer.encode("<loc0003>") == [tokenizer.location_id(3)]
    with pytest.raises(ValueError, match="no location token <loc0999>"):
        tokenizer.location_id(999)
