"""Meshes: the same training on any of them, and really in parts.

Simulated CPU devices in a process of their own; `make test-faults` runs every mesh.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from swm_jax.models import SemanticWorldModel, get_config
from swm_jax.models.backbones.logical_axes import constrain, partition_spec
from swm_jax.training.sharding import (
    AXES,
    make_mesh,
    param_shardings,
    state_shardings,
    unsplit,
)
from swm_jax.training.step import TrainState

ROOT = Path(__file__).parents[2]
ALONE = {"data": 1}
EVERY_MESH = [
    dict(zip(AXES, sizes))
    for sizes in itertools.product((1, 2, 4, 8), repeat=3)
    if np.prod(sizes) in (2, 4, 8)
]


def train_on(meshes, **settings):
    """One result per mesh; the entries may be (mesh, settings that differ)."""
    entries = [each if isinstance(each, tuple) else (each, {}) for each in meshes]
    return simulate("train", [{"mesh": m, **settings, **own} for m, own in entries])


def simulate(what, arguments, timeout=3000):
    """Results of `mesh_runs.py`, in a process with eight devices."""
    done = subprocess.run(
        [sys.executable, "tests/helpers/mesh_runs.py", what, json.dumps(arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_same(result, reference, mesh, rtol):
    np.testing.assert_allclose(
        result["rows"], reference["rows"], rtol=rtol, err_msg=f"mesh {mesh}"
    )
    np.testing.assert_allclose(
        result["validation"], reference["validation"], rtol=1e-5, err_msg=f"{mesh}"
    )
    assert result["compiled"] == 1, "a step's result is laid out as its argument"
    assert result["donated"]


def check_parts(result, mesh):
    """Weights and their moments lie in as many parts as fsdp x tensor devices."""
    split = mesh.get("fsdp", 1) * mesh.get("tensor", 1)
    counted = 0
    for name, parts in result["parts"].items():
        if name.endswith(("mlp/linear", "input_embedding", "Dense_0/kernel")):
            assert parts == split, name
            counted += 1
        if name.endswith(("scale", "bias", "count", "step")):
            assert parts == 1, name
    assert counted >= 3 * 2  # the parameter, and at least one moment of each


def test_four_meshes_train_alike_and_hold_parts_of_the_weights():
    quick = dict(optimizer="adamw", beside=False, drawn=False, depth=1, scan=False)
    meshes = [
        {"data": 2},
        {"fsdp": 4},
        {"tensor": 4, "data": 2},
        {"data": 2, "fsdp": 2, "tensor": 2},
    ]
    parts = [*meshes[:3], (meshes[3], {"accumulate": 2})]
    reference, *results = train_on([ALONE, *parts], **quick)
    assert reference["rows"][0][0] != reference["rows"][-1][0]
    for mesh, result in zip(meshes, results):
        check_same(result, reference, mesh, 2e-5)
        check_parts(result, mesh)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("optimizer", "layout"), [("muon", "branched"), ("adamw", "block")]
)
def test_every_mesh_of_1_2_4_and_8_devices_trains_alike(optimizer, layout):
    settings = dict(optimizer=optimizer, layout=layout, steps=6)
    reference, *results = train_on([ALONE, *EVERY_MESH], **settings)
    for mesh, result in zip(EVERY_MESH, results):
        # Muon's iteration magnifies rounding.
        check_same(result, reference, mesh, 2e-4 if optimizer == "muon" else 5e-5)
        check_parts(result, mesh)


@pytest.mark.faults
def test_parts_of_a_batch_add_up_on_every_kind_of_mesh():
    meshes = [ALONE, {"data": 4}, {"fsdp": 2, "tensor": 2}, {"data": 2, "fsdp": 2}]
    for settings in ({"optimizer": "adamw"}, {"optimizer": "adamw", "remat": "full"}):
        reference, *results = train_on(
            [ALONE, *((mesh, {"accumulate": 4}) for mesh in meshes)], **settings
        )
        for mesh, result in zip(meshes, results):
            check_same(result, reference, mesh, 1e-4)


def same_plans(scenes, layouts, watched=False, at_once=None):
    """Plans and episodes of several meshes against those of one device.

    Args:
      at_once: scenes x candidates that the meshes run in one pass.
    """
    settings = {"scenes": scenes, "watched": watched}
    entries = [{"mesh": mesh, "at_once": at_once, **settings} for mesh in layouts]
    reference, *results = simulate("plan", [{"mesh": None, **settings}, *entries])
    values = np.array(reference["values"])
    apart = np.ptp(values, axis=1) / np.abs(values).mean(1)
    assert apart.min() > 1e-3  # the model tells candidates apart
    for mesh, result in zip(layouts, results):
        for name in ("chunk", "values"):
            np.testing.assert_allclose(
                result[name], reference[name], rtol=1e-4, atol=1e-6, err_msg=f"{mesh}"
            )
    counts = [each["compiled"] for each in (reference, *results)]
    assert counts == list(range(1, 2 + len(layouts)))  # once each, for two replans
    alone = reference["episodes"]
    assert 0 < sum(alone["success"]) < len(alone["success"])
    for mesh, result in zip(layouts, results):
        found = result["episodes"]
        np.testing.assert_allclose(found["path"], alone["path"], atol=1e-5)
        assert found["success"] == alone["success"]
        assert found["steps"] == alone["steps"]
        assert found["shard"] == 8 // (mesh.get("data", 1) * mesh.get("fsdp", 1))
    return results


def test_eight_devices_plan_as_one_does():
    (result,) = same_plans(2, [{"data": 2, "fsdp": 2, "tensor": 2}], watched=True)
    assert result["parts"]["context"][1] == 2  # [depth, scenes, ...]: by scene
    assert result["parts"]["actions"][:2] == [2, 2]  # and candidates by the rest


@pytest.mark.faults
@pytest.mark.parametrize(
    ("scenes", "at_once"), [(1, None), (3, None), (8, None), (8, 4)]
)
def test_every_mesh_plans_as_one_device_does(scenes, at_once):
    same_plans(scenes, EVERY_MESH, at_once=at_once)


@pytest.mark.faults
def test_board_episodes_of_four_devices_are_those_of_one():
    meshes = [None, {"data": 4}, {"data": 2, "fsdp": 2}]
    reference, *results = simulate("board", [{"mesh": mesh} for mesh in meshes])
    for result in results:
        assert result["steps"] == reference["steps"]
        for name in ("path", "blocks", "values"):
            np.testing.assert_allclose(result[name], reference[name], atol=1e-4)


SHAPES = jax.eval_shape(
    SemanticWorldModel(get_config("paligemma_3b_224")).init_params, jax.random.key(0)
)


def abstract(**axes):
    return AbstractMesh(tuple(axes.values()), tuple(axes), (AxisType.Auto,) * len(axes))


def per_device(shapes, shardings):
    """Numbers that one device holds."""
    shard = lambda leaf, place: np.prod(place.shard_shape(leaf.shape), dtype=np.int64)
    return sum(jax.tree.leaves(jax.tree.map(shard, shapes, shardings)))


@pytest.mark.parametrize("axes", [{"fsdp": 16}, {"fsdp": 4, "tensor": 4}])
def test_a_3b_model_lies_in_sixteen_parts_without_a_rule(axes):
    held = per_device(SHAPES, param_shardings(SHAPES, (), abstract(data=2, **axes)))
    whole = sum(leaf.size for leaf in jax.tree.leaves(SHAPES))
    assert held < 1.05 * whole / 16


@pytest.mark.parametrize(
    "optimizer", [optax.adamw(1e-3), optax.adafactor(1e-3), optax.sgd(1e-3, 0.9)]
)
def test_optimizer_states_lie_beside_their_parameters(optimizer):
    mesh = abstract(fsdp=8, tensor=2)
    state = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        SHAPES,
        jax.eval_shape(optimizer.init, SHAPES),
    )
    places = state_shardings(state, (), mesh)
    held = per_device(state.opt_state, places.opt_state)
    whole = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert held < 1.05 * whole / 16 + 2**21  # small vectors are whole
    for (path, leaf), place in zip(
        jax.tree_util.tree_leaves_with_path(state.opt_state),
        jax.tree.leaves(places.opt_state),
    ):
        if jax.tree_util.keystr(path).endswith("['linear']"):
            if leaf.shape == (18, 16384, 2048):
                assert place.spec == PartitionSpec(None, "tensor", "fsdp")
            elif leaf.shape == (18, 16384):  # a factor of Adafactor
                assert place.spec == PartitionSpec(None, "tensor")


def test_the_first_rule_that_matches_counts_and_the_defaults_follow():
    mesh = abstract(data=1, fsdp=4, tensor=2)
    rules = (
        ("llm/layers/mlp/.*", "replicate"),
        ("llm/layers/mlp/linear", "fsdp"),
        ("llm/e.*", (None, ("fsdp", "tensor"))),
    )
    places = param_shardings(SHAPES, rules, mesh)
    layers = places["llm"]["layers"]
    assert layers["mlp"]["linear"].spec == PartitionSpec()
    table = places["llm"]["embedder"]["input_embedding"]
    assert table.spec == PartitionSpec(None, ("fsdp", "tensor"))
    kernel = places["img"]["head"]["kernel"]
    assert kernel.spec == PartitionSpec(None, "fsdp")  # the larger dimension


@pytest.mark.parametrize(
    ("rules", "axes", "message"),
    [
        ((("llm/head", "fsdp"),), {"fsdp": 2}, "'llm/head' matches no parameter"),
        (
            (("img/pos_embedding", (None, "fsdp", None)),),
            {"fsdp": 3},
            r"img/pos_embedding of shape \(1, 256, 1152\) splits 256 over the axis "
            "'fsdp' of 3 devices",
        ),
        ((("img/head/kernel", ("fdsp",)),), {"fsdp": 2}, "did you mean 'fsdp'"),
        ((("img/head/bias", (None, "fsdp")),), {"fsdp": 2}, "at most 1 entries"),
        ((("img/head/bias", "split"),), {"fsdp": 2}, "'replicate', 'fsdp' or a tuple"),
        (
            (("img/head/kernel", ("fsdp", "fsdp")),),
            {"fsdp": 2},
            "uses the axis 'fsdp' twice",
        ),
    ],
)
def test_rules_that_do_not_fit_are_named(rules, axes, message):
    with pytest.raises(ValueError, match=message):
        param_shardings(SHAPES, rules, abstract(**axes))


def test_large_parameters_that_nothing_splits_are_named():
    odd = {"llm": {"embedder": {"input_embedding": SHAPES_ODD}}}
    mesh = abstract(data=2, fsdp=4, tensor=2)
    told = lambda shapes, rules=(), mesh=mesh: unsplit(
        shapes, param_shardings(shapes, rules, mesh), rules, mesh
    )
    (line,) = told(odd)
    assert line.startswith(
        "llm/embedder/input_embedding of shape (257153, 1023), 1,004 MiB, is whole on "
        "every device"
    )
    assert not told(odd, (("llm/embedder/input_embedding", "replicate"),))
    assert not told(odd, mesh=abstract(data=8))  # nothing could split it
    assert not told(SHAPES)


SHAPES_ODD = jax.ShapeDtypeStruct((257153, 1023), jnp.float32)


def test_meshes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"'model'.*known: data, fsdp, tensor"):
        make_mesh({"data": -1, "model": 2})
    with pytest.raises(ValueError, match="does not fit 1 devices"):
        make_mesh({"data": 1, "tensor": 0})


@given(
    st.lists(st.integers(1, 24), min_size=2, max_size=4),
    st.tuples(*[st.sampled_from((1, 2, 3, 4))] * 3),
)
def test_activations_are_split_only_where_devices_divide_them(shape, sizes):
    mesh = abstract(**dict(zip(AXES, sizes)))
    names = ("batch", "candidate", "heads", "vocab")[: len(shape)]
    spec = partition_spec(tuple(shape), names, mesh)
    entries = [(e,) if isinstance(e, str) else e or () for e in spec]
    used = sum(entries, ())
    assert len(used) == len(set(used))
    for size, entry in zip(shape, entries):
        assert size % np.prod([mesh.shape[a] for a in entry] or [1]) == 0
    if len(shape) > 1 and shape[0] == 1 and shape[1] % (sizes[0] * sizes[1]) == 0:
        assert set(entries[1]) == {a for a in AXES[:2] if mesh.shape[a] > 1}


def test_without_a_mesh_nothing_is_constrained():
    x = jnp.ones((4, 4))
    assert constrain(x, "batch") is x
    assert "sharding" not in str(jax.make_jaxpr(lambda x: constrain(x, "batch"))(x))
