"""Input protocol of the loop, and assembly of global batches from processes' rows.

On several hosts each process builds only the rows of the batch that its devices hold on
the mesh. A row is built twice only if hosts share it (a tensor axis across hosts).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from swm_jax.training.sharding import batch_sharding, batch_shards, shard_batch


@runtime_checkable
class Inputs(Protocol):
    """Batches of a run, pytrees of host or single-device arrays.

    Batches are pure functions of (seed, step), and contain this process's rows
    (`process_rows`).

    Attributes:
      images: number of examples in a global batch.
    """

    images: int

    def stream(self, start_step: int) -> Iterator[Any]:
        """Infinite training batches, beginning with that of `start_step`."""
        ...

    def validation(self) -> Sequence[Any]:
        """Held-out batches."""
        ...

    def examples(self, step: int) -> dict[str, Any]:
        """JSON description of the batch of `step` (number of steps before it)."""
        ...


def process_rows(mesh: Mesh, images: int) -> Int[np.ndarray, " n"] | None:
    """Rows of a global batch on this process's devices; None for a single process.

    Args:
      mesh: over all processes' devices.
      images: rows of the global batch.

    Raises:
      ValueError: images that do not divide by the mesh's batch axes.
    """
    if jax.process_count() == 1:
        return None
    if images % batch_shards(mesh):
        raise ValueError(
            f"a batch of {images} images does not divide by the mesh's data and fsdp "
            f"axes of {batch_shards(mesh)} devices"
        )
    parts = batch_sharding(mesh).addressable_devices_indices_map((images,)).values()
    return np.unique(np.concatenate([np.arange(images)[part] for part in parts]))


def place_batch(batch: Any, mesh: Mesh, rows: Int[np.ndarray, " n"] | None) -> Any:
    """Assembles each process's rows into one global batch on the mesh.

    Args:
      batch: host or single-device arrays with leading axis `rows`.
      mesh: over all processes' devices.
      rows: from `process_rows`, in ascending order.
    """
    if rows is None:
        return shard_batch(batch, mesh)
    sharding = batch_sharding(mesh)
    size = {len(leaf) for leaf in jax.tree.leaves(batch)}
    if size != {len(rows)}:
        raise ValueError(f"rows are {len(rows)}, the batch has {sorted(size)}")
    images = len(rows) * batch_shards(mesh) // _shards_here(mesh)

    def place(leaf):
        def part(index):
            # A device's rows are contiguous, in the batch and in this process's `rows`.
            wanted = np.arange(images)[index[0]]
            first = int(np.searchsorted(rows, wanted[0]))
            return leaf[first : first + len(wanted)]

        shape = (images, *leaf.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(place, batch)


def _shards_here(mesh: Mesh) -> int:
    """Number of distinct shards of a batch on this process's devices."""
    shards = batch_shards(mesh)
    parts = batch_sharding(mesh).addressable_devices_indices_map((shards,)).values()
    return len({np.arange(shards)[part][0] for part in parts})
