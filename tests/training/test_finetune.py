"""Fine-tuning choices: what moves, at which pace, and what checkpoints make of it."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from micro_models import MICRO, batch_of_queries, quick_jit

from experiments import board_tiny
from swm_jax.checkpoints import (
    CheckpointError,
    export_adapter,
    export_model,
    load_adapter,
    load_model,
)
from swm_jax.checkpoints.convert import convert
from swm_jax.checkpoints.formats.detect import open_source
from swm_jax.checkpoints.formats.orbax.step_folder import write_model
from swm_jax.checkpoints.run.manager import FORMAT, FORMAT_VERSION
from swm_jax.models import SemanticWorldModel, get_config
from swm_jax.training import Experiment, TrainingError, train
from swm_jax.training.finetune import Finetune, join
from swm_jax.training.optimizer import Optimizer, make_optimizer
from swm_jax.training.step import TrainState, make_train_step
from swm_jax.training.world_model.model import TrainableWorldModel

LORA = (("llm/layers/attn/.*", {"rank": 2, "alpha": 4.0}),)
OPTIMIZER = Optimizer(
    "adamw",
    learning_rate=1e-3,
    warmup_steps=0,
    schedule="constant",
    weight_decay=0.0,
)


def flat(tree):
    return {k: np.asarray(v) for k, v in flatten_dict(tree, sep="/").items()}


@functools.cache
def model():
    return SemanticWorldModel(get_config("tiny", **MICRO))


def finetune_of(**rules):
    return Finetune.from_config(rules)


def after_steps(finetune, steps=1, optimizer=OPTIMIZER):
    """(parameters before, parameters after, optimizer state)."""
    params = quick_jit(model().init_params)(jax.random.key(0))
    params = finetune.with_adapters(jax.random.key(1), params)
    pace = finetune.scale_by_pace(optimizer, 10) if finetune.schedules else None
    transform, _ = make_optimizer(optimizer, 10, pace)
    state = TrainState(
        jnp.zeros((), jnp.int32), params, transform.init(finetune.split(params)[0])
    )
    before = flat(params)  # copies: the step takes the buffers
    trainable = TrainableWorldModel(model(), finetune)
    step = make_train_step(trainable, transform, finetune)
    for _ in range(steps):
        state, _ = step(state, batch_of_queries())
    return before, flat(state.params), state.opt_state


def test_only_matching_parameters_move_each_at_its_own_pace():
    finetune = finetune_of(
        schedules=(
            ("img/.*", None),
            ("llm/layers/mlp/.*", {"learning_rate": 1e-2}),
            (".*/scale", None),
            (".*", {}),
        )
    )
    before, after, state = after_steps(finetune)
    sizes = {}
    for name, old in before.items():
        moved = np.abs(after[name] - old).max()
        if name.startswith("img/") or name.endswith("/scale"):
            np.testing.assert_array_equal(after[name], old, err_msg=name)
        else:
            # Adam's first step is the learning rate, whatever the gradient.
            rate = 1e-2 if "/mlp/" in name else 1e-3
            np.testing.assert_allclose(moved, rate, rtol=0.02, err_msg=name)
            sizes[name] = old.size
    held = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert held == 2 * sum(sizes.values())  # two moments of what moves, no more


def test_one_rule_for_all_is_full_fine_tuning():
    _, plain, _ = after_steps(Finetune(), 2)
    _, ruled, _ = after_steps(finetune_of(schedules=((".*", {}),)), 2)
    for name, value in plain.items():
        np.testing.assert_allclose(ruled[name], value, atol=2e-7, err_msg=name)


def test_muon_moves_parts_too():
    optimizer = dataclasses.replace(OPTIMIZER, name="muon")
    finetune = finetune_of(schedules=(("img/.*", None), (".*", {})))
    before, after, _ = after_steps(finetune, 1, optimizer)
    for name, old in before.items():
        assert (after[name] != old).any() != name.startswith("img/"), name


def test_adapters_move_and_their_base_does_not():
    finetune = finetune_of(lora=LORA)
    before, after, state = after_steps(finetune, 2)
    for name, old in before.items():
        moves = name.startswith(("lora/", "action/"))
        assert (after[name] != old).any() == moves, name
    adapters = [name for name in before if name.startswith("lora/")]
    assert len(adapters) == 6  # a and b of three einsums
    held = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    moving = sum(v.size for n, v in before.items() if n[:4] in ("lora", "acti"))
    assert held == 2 * moving


def test_splitting_and_joining_gives_the_tree_back():
    params = jax.eval_shape(model().init_params, jax.random.key(0))
    finetune = finetune_of(schedules=(("img/.*", None), (".*", {})))
    moving, frozen = finetune.split(params)
    assert set(frozen) == {"img"} and set(moving) == {"llm", "action"}
    assert jax.tree.structure(join(moving, frozen)) == jax.tree.structure(params)
    assert Finetune().split(params)[1] == {}


def test_rules_that_do_not_fit_are_named():
    params = jax.eval_shape(model().init_params, jax.random.key(0))
    with pytest.raises(ValueError, match=r"schedule 'image/\.\*' matches no parameter"):
        finetune_of(schedules=(("image/.*", None), (".*", {}))).split(params)
    with pytest.raises(ValueError, match=r"no finetune schedule matches .*action"):
        finetune_of(schedules=(("llm/.*", {}), ("img/.*", {}))).split(params)
    with pytest.raises(ValueError, match="freeze every parameter"):
        finetune_of(schedules=((".*", None),)).split(params)
    with pytest.raises(ValueError, match=r"unknown field 'lr'; known: learning_rate"):
        finetune_of(schedules=((".*", {"lr": 1.0}),))
    with pytest.raises(ValueError, match=r"lora rule 'llm/attn' matches no parameter"):
        finetune_of(lora=(("llm/attn", {"rank": 2, "alpha": 2.0}),)).with_adapters(
            jax.random.key(0), params
        )


def debug_config(base):
    config = board_tiny.get_config("pretrain_debug")
    config.init_from = str(base)
    config.finetune.lora = LORA
    # Nobody acts in this stage: decay moves the projector, which has no gradient.
    config.optimizer.update(name="adamw", weight_decay=0.1)
    config.optimizer.decay = (("action/bias", True),)
    config.model.overrides.update(width=32, mlp=32, vision_width=32, vision_mlp=32)
    return config


def write_base(folder, config, seed):
    """A checkpoint of random parameters."""
    overrides = Experiment.parse(config).model.settings
    params = SemanticWorldModel(get_config("tiny", **overrides)).init_params
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": 0,
        "model": {"variant": "tiny", "overrides": overrides, "tokenizer": "tiny"},
    }
    folder.mkdir()
    write_model(folder, quick_jit(params)(jax.random.key(seed)), metadata)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of the base, workdir of a run with adapters, its config)."""
    folder = tmp_path_factory.mktemp("finetune")
    config = debug_config(folder / "base")
    write_base(folder / "base", config, seed=5)
    train(config, folder / "run")
    return folder / "base", folder / "run", config


def assert_same(left, right, **tolerance):
    left, right = flat(left), flat(right)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_allclose(
            right[name], value, err_msg=name, **(tolerance or {"rtol": 0})
        )


def test_a_run_with_adapters_resumes_bit_for_bit(run, tmp_path):
    _, workdir, config = run
    for step in ("3", "6"):
        assert (workdir / "checkpoints" / step).is_dir()
    resumed = tmp_path / "run"
    (resumed / "checkpoints").mkdir(parents=True)
    shutil.copytree(workdir / "checkpoints" / "3", resumed / "checkpoints" / "3")
    train(config, resumed)
    assert_same(load_model(workdir).params, load_model(resumed).params)
    other = debug_config(run[0])
    other.finetune.lora = ((LORA[0][0], {"rank": 3, "alpha": 4.0}),)
    with pytest.raises(TrainingError, match="another config: its finetune is"):
        train(other, resumed)


def test_a_run_with_adapters_is_read_and_exported_merged(run, tmp_path):
    base, workdir, _ = run
    before, after = flat(load_model(base).params), flat(load_model(workdir).params)
    assert before.keys() == after.keys()
    for name, value in before.items():
        moved = name.startswith(("llm/layers/attn", "action/"))
        assert (after[name] != value).any() == moved, name
    shipped = load_model(export_model(workdir, tmp_path / "model"))
    assert_same(load_model(workdir).params, shipped.params)
    again = load_model(export_model(tmp_path / "model", tmp_path / "again"))
    assert_same(shipped.params, again.params)
    converted = load_model(convert(open_source(workdir), tmp_path / "model.npz"))
    assert_same(shipped.params, converted.params)


def test_a_run_with_adapters_is_rounded_once_and_placed_like_any_other(run):
    _, workdir, _ = run
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    asked = []

    def place(key, struct):
        asked.append(key)
        return device

    loaded = load_model(workdir, param_dtype="bfloat16", sharding=place)
    exact = load_model(workdir).params
    assert_same(jax.tree.map(lambda x: x.astype("bfloat16"), exact), loaded.params)
    assert set(asked) == set(flat(exact))


def test_an_adapter_finds_its_base_after_either_has_moved(tmp_path, monkeypatch):
    """The run names its base relative to the folder in which it is trained."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    config = debug_config("base")
    write_base(home / "base", config, seed=5)
    train(config, "runs/a")
    expected = load_model("runs/a").params
    monkeypatch.chdir(tmp_path)
    adapter = export_adapter(home / "runs" / "a", "home/adapters/a")
    assert_same(expected, load_adapter(adapter).params)
    alone = shutil.copytree(adapter, tmp_path / "alone")
    assert_same(expected, load_adapter(alone).params)  # the base is where it was
    moved = home.rename(tmp_path / "moved") / "adapters" / "a"
    assert_same(expected, load_adapter(moved).params)  # as far away as it was
    with pytest.raises(CheckpointError, match=r"is not at .*home/base any more.*base="):
        load_adapter(alone)
    assert_same(expected, load_adapter(alone, "moved/base").params)
    train(config, tmp_path / "moved" / "runs" / "a")  # resumed: nothing is forgotten
    again = export_adapter(tmp_path / "moved" / "runs" / "a", "again")
    assert_same(expected, load_adapter(again).params)


def everywhere():
    """A sharding that is not the one that `load_model` falls back to."""
    mesh = jax.make_mesh((jax.device_count(),), ("fsdp",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def test_an_adapter_travels_without_its_base(run, tmp_path):
    base, workdir, config = run
    adapter = export_adapter(workdir, tmp_path / "adapter")
    size = lambda path: sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    assert size(adapter) < size(base) / 3
    expected = load_model(workdir)
    for where in (None, base):
        loaded = load_adapter(adapter, where)
        assert_same(expected.params, loaded.params)
        assert loaded.config == expected.config
    place = everywhere()
    rounded = load_adapter(adapter, param_dtype="bfloat16", sharding=place).params
    assert_same(load_model(workdir, param_dtype="bfloat16").params, rounded)
    for leaf in jax.tree.leaves(rounded):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
        assert leaf.sharding.mesh == place.mesh
    other = write_base(tmp_path / "other", config, seed=6)
    with pytest.raises(
        CheckpointError, match=r"other parameters than those of .*other"
    ):
        load_adapter(adapter, other)
    with pytest.raises(CheckpointError, match="adapter without its base"):
        load_model(adapter)
    with pytest.raises(CheckpointError, match="no base with adapters"):
        export_adapter(base, tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is not an exported adapter"):
        load_adapter(base)
