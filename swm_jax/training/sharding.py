"""Sharding of train state and batches: mesh, and (regex, rule) lists for parameters.

    config.mesh = {"data": -1, "fsdp": 4, "tensor": 2}       # order as on the devices
    config.sharding = (("llm/embedder/.*", ("tensor", "fsdp")), ("img/.*", "fsdp"))

There are three mesh axes: batches are split over `data` and `fsdp`; parameters and
optimizer states over `fsdp` (all-gathered layer by layer) and `tensor` (vocabulary,
heads and hidden width; activations are exchanged). An omitted axis has size one. As in
big_vision the first rule whose regex matches a parameter's full name counts; without a
match, the declared axes of the weight determine its sharding (`default_rule`). A rule
is one of

    "replicate"      every device holds the whole parameter
    "fsdp"           the largest dimension divisible by `fsdp` is split over it;
                     parameters of less than `MIN_SIZE` elements are replicated
    a tuple          an entry per dimension, the depth of stacked layers included:
                     None, an axis, or a tuple of axes. "axis?" splits if it divides;
                     "axis" that does not divide is an error
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from swm_jax.models.backbones.logical_axes import MESH_AXES, WEIGHT_AXES
from swm_jax.models.backbones.lora import check_patterns, first_match
from swm_jax.models.backbones.registry import declared
from swm_jax.models.backbones.weights import leaf_name, named_leaves
from swm_jax.records import pairs

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
MIN_SIZE = 2**18
WIDE = 2**22  # elements from which a parameter that no rule splits is told
Rule = tuple[str, Any]
Rules = Sequence[Rule]


def make_mesh(
    axes: Mapping[str, int | str], devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh with axes in the order of `axes`, of type Auto (for `constrain`).

    Args:
      axes: size of each axis, for example {"data": -1, "tensor": 2}; one may be -1, for
        the remaining devices; "<=16" is the largest divisor of the device count up to
        16, so that one config suits a laptop and a pod.
      devices: default all devices; or those of a topology to compile for.

    Raises:
      ValueError: an unknown axis, or sizes that do not multiply to the number of
        devices.
    """
    for name in axes:
        if name not in AXES:
            raise ValueError(
                f"unknown mesh axis {name!r}{_hint(name)}; known: {', '.join(AXES)}"
            )
    count = jax.device_count() if devices is None else len(devices)
    sizes = {name: _size(name, size, count) for name, size in axes.items()}
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    wrong = any(size < 1 and size != -1 for size in sizes.values()) or len(free) > 1
    if wrong or (count % fixed if free else fixed != count):
        raise ValueError(
            f"mesh {sizes} does not fit {count} devices: sizes must multiply to "
            f"{count}, and one of them may be -1"
        )
    if free:
        sizes[free[0]] = count // fixed
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding that replicates an array on all devices."""
    return NamedSharding(mesh, PartitionSpec())


def param_shardings(shapes: Any, rules: Rules, mesh: Mesh) -> Any:
    """Shardings of a tree of parameters.

    Args:
      shapes: nested dict of arrays or shape structs.
      rules: the config's (regex, rule) pairs; `default_rule` follows them.
      mesh: from `make_mesh`.

    Returns:
      The same tree of NamedShardings.

    Raises:
      ValueError: a rule that matches nothing, names an unknown axis, or splits a
        dimension that its axis does not divide.
    """
    rules = pairs(rules, "sharding", "('llm/.*', 'fsdp')")
    patterns = [pattern for pattern, _ in rules]
    if patterns:
        check_patterns("sharding rule", patterns, list(named_leaves(shapes)))
    return jax.tree.map_with_path(
        lambda path, leaf: param_sharding(leaf_name(path), leaf.shape, rules, mesh),
        shapes,
    )


def unsplit(shapes: Any, shardings: Any, rules: Rules, mesh: Mesh) -> list[str]:
    """Lines that name large parameters that every device holds whole by default.

    For example an embedding whose rows no axis of the mesh divides. A rule of the
    config that keeps them whole is taken at its word.

    Args:
      shapes: nested dict of arrays or shape structs.
      shardings: of `param_shardings`.
      rules: the config's.
      mesh: axes of size one split nothing.
    """
    if all(mesh.shape.get(axis, 1) == 1 for axis in ("fsdp", "tensor")):
        return []
    patterns, places = [pattern for pattern, _ in rules], named_leaves(shardings)
    found = []
    for name, leaf in named_leaves(shapes).items():
        whole = not any(places[name].spec) and math.prod(leaf.shape) >= WIDE
        if whole and first_match(patterns, name) is None:
            size = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize / 2**20
            found.append(
                f"{name} of shape {tuple(leaf.shape)}, {size:,.0f} MiB, is whole on "
                "every device: no axis of the mesh divides it; change the mesh, or say "
                f"so with config.sharding = (({re.escape(name)!r}, 'replicate'),)"
            )
    return found


def default_rule(name: str, shape: tuple[int, ...]) -> Any:
    """The rule of a parameter without a match in the config, from its declared axes.

    Heads, hidden width and vocabulary are split over `tensor`, the decoder width over
    `fsdp`, if divisible; weights without such axes have the rule "fsdp". For example
    (None, ("tensor?",), ("fsdp?",), None) for axes "LNDH".
    """
    names = (WEIGHT_AXES.get(axis) for axis in declared(name, shape).axes)
    rule = tuple(
        name and tuple(f"{axis}?" for axis in MESH_AXES[name]) for name in names
    )
    return rule if any(rule) else "fsdp"


def param_sharding(
    name: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh
) -> NamedSharding:
    """Sharding of one parameter; see `param_shardings`."""
    rules = (*rules, (".*", default_rule(name, shape)))
    match = first_match([pattern for pattern, _ in rules], name)
    assert match is not None  # the last one matches everything
    pattern, rule = rules[match]
    where = f"sharding rule {pattern!r} for {name} of shape {tuple(shape)}"
    if rule == "replicate":
        return replicated(mesh)
    if rule == "fsdp":
        return NamedSharding(mesh, _largest(shape, mesh))
    if isinstance(rule, str) or len(rule) > len(shape):
        raise ValueError(
            f"{where} is {rule!r}, expected 'replicate', 'fsdp' or a tuple of at most "
            f"{len(shape)} entries"
        )
    spec, used = [], set()
    for size, entry in zip(shape, rule):
        axes = []
        for axis in () if entry is None else _entry(entry):
            optional, axis = axis.endswith("?"), axis.removesuffix("?")
            if axis not in AXES:
                raise ValueError(
                    f"{where} names the unknown axis {axis!r}{_hint(axis)}; known: "
                    f"{', '.join(AXES)}"
                )
            if axis in used:
                raise ValueError(f"{where} uses the axis {axis!r} twice")
            devices = mesh.shape.get(axis, 1)
            # A dimension may be split over several axes: their product must divide it.
            if size % (devices * math.prod(mesh.shape[a] for a in axes)):
                if optional:
                    continue
                raise ValueError(
                    f"{where} splits {size} over the axis {axis!r} of {devices} "
                    f"devices, which does not divide it; '{axis}?' keeps such "
                    "dimensions whole"
                )
            used.add(axis)
            if devices > 1:
                axes.append(axis)
        spec.append(tuple(axes) if len(axes) > 1 else axes[0] if axes else None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def state_shardings(state: Any, rules: Rules, mesh: Mesh) -> Any:
    """Shardings of a train state; optimizer states follow their parameters.

    A leaf belongs to the parameter whose name is a suffix of its path. Leaves of the
    parameter's shape (moments of Adam and Muon) have its sharding; leaves with one
    dimension less (factors of Adafactor) that of the remaining dimensions. Others, such
    as counters, are replicated.

    Args:
      state: a `TrainState` of arrays or shape structs (anything with `params`).

    Raises:
      ValueError: as `param_shardings`.
    """
    shardings = named_leaves(param_shardings(state.params, rules, mesh))
    shapes = {name: leaf.shape for name, leaf in named_leaves(state.params).items()}

    def place(path, leaf):
        parts = leaf_name(path).split("/")
        # Longest suffix first.
        endings = ("/".join(parts[i:]) for i in range(len(parts)))
        name = next((ending for ending in endings if ending in shapes), None)
        if name is None:
            return replicated(mesh)
        spec = tuple(shardings[name].spec)
        spec += (None,) * (len(shapes[name]) - len(spec))
        if leaf.shape == shapes[name]:
            return shardings[name]
        for i in range(len(spec)):
            if leaf.shape == (*shapes[name][:i], *shapes[name][i + 1 :]):
                return NamedSharding(mesh, PartitionSpec(*spec[:i], *spec[i + 1 :]))
        return replicated(mesh)

    return jax.tree.map_with_path(place, state)


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Shape structs with shardings, for restoring or ahead-of-time compilation."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        shardings,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of batches: leading axis split over `data` and `fsdp`."""
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)
    return NamedSharding(mesh, PartitionSpec(axes))


def batch_shards(mesh: Mesh) -> int:
    """Number of shards of a batch."""
    return math.prod(mesh.shape.get(axis, 1) for axis in BATCH_AXES)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Splits a pytree's leading axis over the mesh's `data` and `fsdp` axes.

    Args:
      batch: pytree of host arrays, the whole global batch.
      mesh: from `make_mesh`.

    Raises:
      ValueError: images that do not divide by the axes.
    """
    size = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch)}
    if any(n % batch_shards(mesh) for n in size):
        raise ValueError(
            f"a batch of {sorted(size)} images does not divide by the mesh's data and "
            f"fsdp axes of {batch_shards(mesh)} devices"
        )
    return jax.device_put(batch, batch_sharding(mesh))


def _largest(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    devices = mesh.shape.get("fsdp", 1)
    fits = [i for i, n in enumerate(shape) if n % devices == 0]
    if devices == 1 or not fits or math.prod(shape) < MIN_SIZE:
        return PartitionSpec()
    # Of equal dimensions the last one: the first is the depth of stacked layers.
    best = max(fits, key=lambda i: (shape[i], i))
    return PartitionSpec(*(None,) * best, "fsdp")


def _size(name: str, size: int | str, devices: int) -> int:
    """Parses an axis size; "<=n" is the largest divisor of `devices` up to n."""
    text = str(size).strip()
    limit = text.removeprefix("<=")
    if not re.fullmatch(r"-?\d+", limit):
        raise ValueError(
            f"mesh axis {name!r} has size {size!r}, expected a number or '<=16'"
        )
    if limit == text:
        return int(size)
    return max((n for n in range(1, int(limit) + 1) if devices % n == 0), default=0)


def _entry(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, AXES, 1, 0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
