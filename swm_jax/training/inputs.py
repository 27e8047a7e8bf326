"""Batches for the loop, and how each process's rows become one global batch.

On many hosts each process builds the rows of the batch that its devices hold, which
the mesh decides, and no others: nothing is lost, and only what two hosts share (a
tensor axis across them) is built twice.
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
    """The batches of a run, pytrees of host or single-device arrays.

    All are pure functions of (seed, step), and hold the rows that this process needs
    (`process_rows`).

    Attributes:
      images: examples of a global batch.
    """

    images: int

    def stream(self, start_step: int) -> Iterator[Any]:
        """Endless training batches, the first of them that of `start_step`."""
        ...

    def validation(self) -> Sequence[Any]:
        """Batches that training never sees."""
        ...

    def examples(self, step: int) -> dict[str, Any]:
        """What makes the batch of `step` (steps done before it), as JSON."""
        ...


def process_rows(mesh: Mesh, images: int) -> Int[np.ndarray, " n"] | None:
    """The rows of a batch that this process's devices hold; None if there is one.

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
    """A process's rows as its part of one global batch on the mesh.

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
            wanted = np.arange(images)[index[0]]
            first = int(np.searchsorted(rows, wanted[0]))
            return leaf[first : first + len(wanted)]

        shape = (images, *leaf.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(place, batch)


def _shards_here(mesh: Mesh) -> int:
    """How many different parts of a batch this process's devices hold."""
    shards = batch_shards(mesh)
    parts = batch_sharding(mesh).addressable_devices_indices_map((shards,)).values()
    return len({np.arange(shards)[part][0] for part in parts})
