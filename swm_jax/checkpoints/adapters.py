"""LoRA adapters as checkpoints: exported without the base, loaded into a base.

Adapters that PEFT wrote are loaded too (`formats.huggingface.peft`).

A run stores the base and, under `lora`, the adapters; `metadata["finetune"]` has the
rules. `load_model` merges adapters on reading. `export_adapter` writes only trained
parameters: adapters, and others that were not frozen, such as the action projector.
"""

import functools
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from swm_jax.checkpoints.errors import CheckpointError, check_tree
from swm_jax.checkpoints.formats.detect import detect, open_source, split_subtree
from swm_jax.checkpoints.formats.orbax.step_folder import (
    find_step,
    merge_stored,
    read_metadata,
    restore_params,
    stored_rules,
    stored_shapes,
    stored_tokenizer,
    with_adapter_shapes,
    write_model,
)
from swm_jax.checkpoints.model import (
    LoadedModel,
    dtype_of,
    load_model,
    load_source,
    loaded_model,
)
from swm_jax.files import AnyPath, found_path, local_path, two_paths
from swm_jax.models import SemanticWorldModel, get_config
from swm_jax.models.backbones.lora import first_match


def export_adapter(source: str | AnyPath, destination: str | Path) -> Path:
    """Writes the trained parameters of a run with adapters, without its base.

    Args:
      source: the run's workdir or one of its steps.
      destination: a new folder.

    Returns:
      The destination, for `load_adapter`.

    Raises:
      CheckpointError: the source has no adapters, or the destination exists.
    """
    step = find_step(source)
    metadata = read_metadata(step)
    if not stored_rules(metadata) or "adapter" in metadata:
        raise CheckpointError(
            f"{step} has no base with adapters beside it: it was trained without "
            "config.finetune.lora, or is exported already"
        )
    destination = local_path(destination).absolute()
    if destination.exists():
        raise CheckpointError(f"{destination} exists already")
    model = metadata["model"]
    shapes = _shapes(get_config(model["variant"], **model["overrides"]), metadata)
    params = restore_params(step, shapes)
    moved, frozen = _split(params, metadata)
    given = metadata["config"]["init_from"]
    stored = {**metadata.pop("base", {}), "given": given} if given else {}
    workdir = step.parent.parent  # of <workdir>/checkpoints/<step>
    base = found_path(stored, workdir) or stored.get("absolute", given)
    metadata["adapter"] = {
        **({"base": {**two_paths(base, destination), "given": given}} if given else {}),
        "base_crc32": fingerprint(frozen),
    }
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=destination.parent, prefix=".export-"))
    try:
        tree = unflatten_dict(moved, sep="/")
        write_model(staging, tree, metadata, stored_tokenizer(step, metadata))
        os.chmod(staging, 0o755)
        os.replace(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return destination


def load_adapter(
    path: str | AnyPath,
    base: str | AnyPath | None = None,
    *,
    param_dtype: Any = None,
    sharding: Any = None,
) -> LoadedModel:
    """Reads an adapter and merges it into its base.

    Args:
      path: folder written by `export_adapter`, or by PEFT for PaliGemma or Gemma 3.
      base: a checkpoint for `load_model`; None takes the one that the adapter names.
      param_dtype: of the parameters, rounded after merging; None keeps float32, and
        with an adapter of PEFT the base's.
      sharding: of all parameters, or a function of (key, shape struct); None puts
        them on the first local device.

    Raises:
      CheckpointError: no adapter, or another base than it was trained on.
    """
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if detect(split_subtree(path)[0]) == "peft":
        source = open_source(path, base=base)
        return load_source(source, functools.partial(dtype_of, param_dtype), sharding)
    step = find_step(path)
    metadata = read_metadata(step)
    if "adapter" not in metadata:
        raise CheckpointError(f"{step} is not an exported adapter; use load_model")
    given = base is not None
    base = base if given else _base_of(step, metadata["adapter"].get("base"))
    # float32 as in training, so that the fingerprint matches.
    loaded = load_model(base, param_dtype="float32", sharding=sharding)
    model = metadata["model"]
    config = get_config(model["variant"], **model["overrides"])
    shapes, _ = _split(_shapes(config, metadata), metadata)
    target = unflatten_dict(shapes, sep="/")
    check_tree(target, stored_shapes(step), str(step))
    check_tree(SemanticWorldModel(config).param_shapes(), loaded.params, str(base))
    _, frozen = _split(loaded.params, metadata)
    if fingerprint(frozen) != metadata["adapter"]["base_crc32"]:
        raise CheckpointError(
            f"{step} was trained on other parameters than those of {base}: their "
            f"checksums differ{'' if given else '; name its base: base=CHECKPOINT'}"
        )
    flat = flatten_dict(loaded.params, sep="/")
    flat |= _restore_beside(step, shapes, flat)
    params, metadata = merge_stored(unflatten_dict(flat, sep="/"), metadata)
    if param_dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(param_dtype), params)
    tokenizer = stored_tokenizer(step, metadata)
    return loaded_model(config, params, tokenizer, metadata, sharding)


def _base_of(step: epath.Path, stored: Mapping[str, str] | str | None) -> AnyPath:
    """Where the base of an adapter is; a text is a path as it was given."""
    stored = {"given": stored} if isinstance(stored, str) and stored else stored
    if not stored or isinstance(stored, str):
        raise CheckpointError(
            f"{step} does not say what it was trained on: name the checkpoint of its "
            "base, load_adapter(ADAPTER, base=CHECKPOINT)"
        )
    found = found_path(stored, step)
    if found is None:
        raise CheckpointError(
            f"the base of {step} is not at {stored.get('absolute', stored['given'])} "
            "any more: name it, load_adapter(ADAPTER, base=CHECKPOINT)"
        )
    return found


def _restore_beside(
    step: epath.Path, shapes: Mapping[str, Any], base: Mapping[str, Any]
):
    """Reads trained parameters, flat, with the base's shardings; factors replicated."""

    def place(key, leaf):
        if not key.startswith("lora/"):
            return leaf.update(sharding=base[key].sharding)
        where = base[key.removeprefix("lora/").rpartition("/")[0]].sharding
        if isinstance(where, NamedSharding):
            where = NamedSharding(where.mesh, PartitionSpec())
        return leaf.update(sharding=where)

    placed = {key: place(key, leaf) for key, leaf in shapes.items()}
    return flatten_dict(restore_params(step, unflatten_dict(placed, sep="/")), sep="/")


def fingerprint(params: Mapping[str, Any]) -> int:
    """CRC-32 of the names and bytes of a flat tree."""
    value = 0
    for name in sorted(params):
        value = zlib.crc32(name.encode(), value)
        array = np.ascontiguousarray(np.asarray(params[name]))
        value = zlib.crc32(array.view(np.uint8).reshape(-1).data, value)
    return value


def _shapes(config, metadata) -> dict[str, Any]:
    return with_adapter_shapes(SemanticWorldModel(config).param_shapes(), metadata)


def _split(tree: Mapping, metadata) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a tree into flat (trained, frozen) parts."""
    rules = metadata["finetune"]["schedules"]
    patterns = [pattern for pattern, _ in rules]
    flat = flatten_dict(dict(tree), sep="/")
    frozen = {n for n in flat if rules[first_match(patterns, n)][1] is None}
    moved = {n: leaf for n, leaf in flat.items() if n not in frozen}
    return moved, {n: flat[n] for n in frozen}
