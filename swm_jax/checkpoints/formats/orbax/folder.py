"""Reading and writing of our Orbax folders as models.

A folder is a run's workdir (its newest step is used), one step of a run, or an exported
model. Adapters are merged into their weights.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import unflatten_dict

from swm_jax.checkpoints.errors import CheckpointError, check_tree
from swm_jax.checkpoints.formats.infer_config import overrides_of
from swm_jax.checkpoints.formats.lazy_arrays import (
    Leaf,
    Source,
    check_dtype,
    to_arrays,
)
from swm_jax.checkpoints.formats.orbax.arrays import stored_leaves
from swm_jax.checkpoints.formats.orbax.step_folder import (
    find_step,
    merge_stored,
    merged_metadata,
    read_metadata,
    stored_shapes,
    stored_tokenizer,
    with_adapter_shapes,
    write_description,
)
from swm_jax.checkpoints.run.manager import FORMAT, FORMAT_VERSION
from swm_jax.files import AnyPath
from swm_jax.models import ModelConfig, SemanticWorldModel, Tokenizer, get_config
from swm_jax.models.backbones.weights import named_leaves
from swm_jax.models.tokenizer import TOKENIZER_FILE

CHUNK_BYTES = 64 << 20


class Opened:
    """An opened folder; keys and shapes match its model.

    Attributes:
      step: the step's folder.
      metadata: as after merging the adapters.
      config, tokenizer: of the model.
      stored: shape structs of the model's tree, as stored.
      adapters: shape structs of stored adapters; empty without any.
    """

    def __init__(
        self,
        path: str | AnyPath,
        tokenizer: Tokenizer | None,
        overrides: Mapping[str, Any],
    ):
        self.step = find_step(path)
        self._described = metadata = read_metadata(self.step)
        if "adapter" in metadata:
            raise CheckpointError(
                f"{self.step} is an adapter without its base; use load_adapter"
            )
        self.metadata = merged_metadata(metadata)
        model = metadata["model"]
        self.config: ModelConfig = get_config(
            model["variant"], **{**model["overrides"], **overrides}
        )
        expected = SemanticWorldModel(self.config).param_shapes()
        if not model.get("action", True):  # a plain PaliGemma
            expected.pop("action")
        found = stored_shapes(self.step)
        check_tree(with_adapter_shapes(expected, metadata), found, str(self.step))
        found = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found
        )
        for key, leaf in named_leaves(found).items():
            check_dtype(f"{self.step}: {key}", np.dtype(leaf.dtype))
        self.adapters = found.pop("lora", {})
        self.stored = found
        self.tokenizer = tokenizer or stored_tokenizer(self.step, metadata)

    def read(self, sharding: Any, dtype: Any, check: bool = True) -> dict[str, Any]:
        """Reads the parameters, on each device only its part.

        Args:
          sharding: of all leaves, or (key, shape struct) -> sharding.
          dtype: (key, stored dtype) -> dtype.
          check: raise an error for NaN and infinity.
        """
        if not self.adapters:
            return self._read(self.stored, sharding, dtype, check)
        # Adapted weights are read in their stored dtype and rounded once, after the
        # merge. Factors are small: every host holds them whole.
        as_stored = lambda key, stored: stored
        host = jax.sharding.SingleDeviceSharding(_host())
        adapters = self._read({"lora": self.adapters}, host, as_stored, check)["lora"]
        adapted = {key.rpartition("/")[0] for key in named_leaves(adapters)}
        params = self._read(
            self.stored,
            sharding,
            lambda key, stored: (as_stored if key in adapted else dtype)(key, stored),
            check,
        )
        params["lora"] = jax.tree.map(np.asarray, adapters)
        merged = named_leaves(merge_stored(params, self._described)[0])
        stored = named_leaves(self.stored)
        for key in adapted:
            merged[key] = merged[key].astype(dtype(key, stored[key].dtype))
        return unflatten_dict(merged, sep="/")

    def leaves(self, structs: Any, check: bool) -> dict[str, Leaf]:
        """Lazy arrays of a tree of shape structs."""
        return stored_leaves(self.step, named_leaves(structs), check)

    def _read(self, structs: Any, sharding: Any, dtype: Any, check: bool):
        leaves = self.leaves(structs, check)
        return to_arrays(leaves, sharding, lambda key: dtype(key, leaves[key].dtype))


def open_orbax(
    path: str | AnyPath,
    tokenizer: Tokenizer | None,
    overrides: Mapping[str, Any],
    check: bool,
    read: bool = True,
) -> Source:
    """Opens one of our folders as a source of lazy arrays.

    With `read=True` adapters are read and merged here; with False only shapes are
    inspected, and adapters are not merged.

    Raises:
      CheckpointError: missing, half-written, damaged or of another model.
    """
    opened = Opened(path, tokenizer, overrides)
    leaves = opened.leaves(opened.stored, check)
    if read and opened.adapters:
        place = jax.sharding.SingleDeviceSharding(_host())
        arrays = named_leaves(opened.read(place, lambda key, dtype: dtype, check))

        def merged(key, leaf):
            def blocks(index):
                block = np.asarray(arrays[key])[index]
                yield tuple(slice(0, n) for n in block.shape), block

            return dataclasses.replace(leaf, blocks=blocks)

        leaves = {key: merged(key, leaf) for key, leaf in leaves.items()}
    config = opened.config
    model = {"variant": config.variant, "overrides": overrides_of(config)}
    metadata = {k: v for k, v in opened.metadata.items() if k[:6] != "format"}
    return Source(
        "orbax",
        opened.step,
        config,
        leaves,
        opened.tokenizer,
        {**metadata, "model": model},
    )


def write_orbax(
    folder: Path, source: Source, dtype: np.dtype | None, progress=lambda count: None
) -> None:
    """Writes a source as an exported model.

    Raises:
      CheckpointError: the source has no tokenizer.
    """
    if source.tokenizer is None:
        other = source.path / "tokenizer.json"
        more = ", tokenizer.json is not read" if other.is_file() else ""
        raise CheckpointError(
            f"{source.path} has no tokenizer: name a SentencePiece model "
            f"with --tokenizer{more}"
        )
    place = jax.sharding.SingleDeviceSharding(_host())
    params = to_arrays(source.leaves, place, dtype, progress)
    # Chunks of bounded size, neither packed nor compressed: writing needs little memory
    # beyond the parameters, and hosts can restore single chunks.
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    handler = ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=1 + largest // 10**9,
        use_ocdbt=False,
        use_compression=False,
    )
    chunks = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), params)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(
            folder / "params", args=ocp.args.PyTreeSave(params, save_args=chunks)
        )
    model = {
        **source.metadata["model"],
        "action": "action/kernel" in source.leaves,
        "tokenizer": source.tokenizer.name,
    }
    if not source.tokenizer.shipped:
        model["tokenizer"] = TOKENIZER_FILE
    metadata = {
        **source.metadata,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": model,
    }
    write_description(folder, metadata, source.tokenizer)


def _host() -> Any:
    """The CPU device, for work that needs no accelerator; a local one without it."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
