"""Where activations lie on a mesh: logical names of their axes, and a hint to XLA.

A model names axes, a mesh has others; `MESH_AXES` is the bridge. Under JAX's own mesh
context (`jax.sharding.use_abstract_mesh`, `jax.set_mesh`) `constrain` tells the
compiler; without a mesh, and on a mesh of one device, it does nothing at all.

    batch       images of a training batch, scenes of a replan
    candidate   chunks of actions: takes the axes that the scenes left free
    heads, mlp  query heads and hidden units (tensor parallelism)
    kv_heads    key heads; a single one is whole everywhere
    vocab       rows of the embedding
    replica     a batch axis, while `columns`, a weight's width, are on other devices

The axes of weights have letters (`backbones.weights`); `WEIGHT_AXES` names those that
a mesh may split.
"""

import jax
from jax.sharding import PartitionSpec

from swm_jax.arrays import Array

MESH_AXES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "candidate": ("data", "fsdp"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "replica": ("data",),
    "columns": ("fsdp",),
}
WEIGHT_AXES = {
    "D": "columns",
    "F": "mlp",
    "K": "kv_heads",
    "N": "heads",
    "V": "vocab",
}
ANY = PartitionSpec.UNCONSTRAINED


def partition_spec(shape: tuple[int, ...], names: tuple, mesh) -> PartitionSpec:
    """Mesh axes of an array with logical axes.

    Args:
      shape: of the array.
      names: per axis a logical name, None for whole, or `ANY` for "the compiler
        knows"; axes behind the last name are whole.
      mesh: a `Mesh` or an abstract one. Each of its axes is used once, by the first
        name that wants it and whose size it divides.
    """
    spec, used = [], set()
    for size, name in zip(shape, names):
        if name is ANY:
            spec.append(ANY)
            continue
        axes = []
        for axis in MESH_AXES[name] if name else ():
            devices = mesh.shape.get(axis, 1)
            if devices > 1 and axis not in used and size % devices == 0:
                axes.append(axis)
                used.add(axis)
                size //= devices
        spec.append(tuple(axes) if axes else None)
    return PartitionSpec(*spec)


def constrain(x: Array, *names) -> Array:
    """x, laid out on the mesh in context as `partition_spec` says."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    spec = partition_spec(x.shape, names, mesh)
    return jax.lax.with_sharding_constraint(x, spec)
