"""Arrays of an Orbax folder as lazy arrays, read with TensorStore.

Orbax restores whole arrays and temporarily holds each twice. Reading slices needs the
parameters and one block for loading, one block for conversion, and lets each host read
its own part. Orbax still defines the folder's layout: it makes the TensorStore specs.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from swm_jax.checkpoints.formats.lazy_arrays import (
    BLOCK_BYTES,
    Index,
    Leaf,
    bounds,
    check_finite,
)
from swm_jax.checkpoints.formats.orbax.step_folder import naming_damage


def stored_leaves(
    step: epath.Path, structs: Mapping[str, Any], check: bool
) -> dict[str, Leaf]:
    """The parameters of a step as lazy arrays.

    Args:
      step: from `find_step`.
      structs: shape structs by key, as stored.
      check: raise an error for NaN and infinity while reading.

    Raises:
      CheckpointError: damaged; also raised when a leaf is read.
    """
    folder = step / "params"
    with naming_damage(step):
        zarr3 = json.loads((folder / "_METADATA").read_text()).get("use_zarr3", False)
    ocdbt = (folder / "manifest.ocdbt").exists()
    context = ocp.type_handlers.get_ts_context(use_ocdbt=ocdbt)

    def opened(key: str) -> ts.TensorStore:
        info = ocp.type_handlers.ParamInfo(
            name=key.replace("/", "."),
            parent_dir=folder,
            is_ocdbt_checkpoint=ocdbt,
            use_zarr3=zarr3,
            ts_context=context,
        )
        spec = ocp.type_handlers.get_json_tspec_read(info, use_ocdbt=ocdbt)
        return ts.open(ts.Spec(spec), open=True, read=True, context=context).result()

    def leaf(key: str, struct: Any) -> Leaf:
        def blocks(index: Index) -> Iterator[tuple[Index, np.ndarray]]:
            with naming_damage(step):
                store = opened(key)
            for where, part in blocks_of(store, bounds(index, struct.shape)):
                with naming_damage(step):
                    block = store[part].read().result()
                if check:
                    check_finite(f"{step}: {key}", block)
                yield where, block

        return Leaf(struct.shape, np.dtype(struct.dtype), blocks, (key,))

    return {key: leaf(key, struct) for key, struct in structs.items()}


def blocks_of(store: ts.TensorStore, index: Index) -> Iterator[tuple[Index, Index]]:
    """Cuts an index along its first axis into blocks of whole stored chunks.

    Blocks have about `BLOCK_BYTES`.

    Yields:
      Position within the indexed part, and position in the array.
    """
    if not index:
        yield (), ()
        return
    first, *rest = index
    inside = [slice(0, s.stop - s.start) for s in rest]
    chunk = store.chunk_layout.read_chunk.shape or (None,)
    rows = chunk[0] or 1
    row_bytes = store.dtype.numpy_dtype.itemsize * int(
        np.prod([s.stop for s in inside], dtype=np.int64)
    )
    step = rows * max(1, BLOCK_BYTES // max(1, rows * row_bytes))
    start = first.start
    while start < first.stop:
        # Blocks end at multiples of `step`, so that no stored chunk is read twice.
        stop = min(first.stop, (start // step + 1) * step)
        where = slice(start - first.start, stop - first.start)
        yield (where, *inside), (slice(start, stop), *rest)
        start = stop
