"""Device meshes and where a batch lies on them.

Axis sizes come from the config; one of them may be -1 ("what is left"). Batches
are split along `data`; parameters are replicated.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(axes: Mapping[str, int]) -> Mesh:
    """A mesh over all devices, logical constraints allowed (Auto axes).

    Args:
      axes: size of each axis, for example {"data": -1}; at most one -1.

    Raises:
      ValueError: sizes that do not multiply to the number of devices.
    """
    devices = jax.device_count()
    sizes = dict(axes)
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or (free and devices % fixed) or (not free and fixed != devices):
        raise ValueError(
            f"mesh {sizes} does not fit {devices} devices: sizes must multiply to "
            f"{devices}, and one of them may be -1"
        )
    if free:
        sizes[free[0]] = devices // fixed
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def on_every_device(shapes, mesh: Mesh):
    """Shape structs of a tree that is to be restored whole onto every device."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=replicated(mesh)
        ),
        shapes,
    )


def shard_batch(batch, mesh: Mesh):
    """Splits a pytree's leading axis over the mesh's `data` axis.

    Args:
      batch: pytree of host arrays, the whole global batch.
      mesh: has an axis `data`.

    Raises:
      ValueError: images that do not divide by the `data` axis.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    size = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch)}
    if any(n % mesh.shape["data"] for n in size):
        raise ValueError(
            f"a batch of {sorted(size)} images does not divide by the mesh's data "
            f"axis of {mesh.shape['data']} devices"
        )
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), batch)
