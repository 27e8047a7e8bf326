"""Sharding of activations by logical axis names.

`MESH_AXES` maps the model's logical axes to mesh axes. Under JAX's mesh context
(`jax.sharding.use_abstract_mesh`, `jax.set_mesh`) `constrain` adds a sharding
constraint; without a mesh, or on a mesh of one device, it is a no-op.

    batch       images of a training batch, scenes of a replan
    candidate   chunks of actions, on the mesh axes that the scenes leave free
    heads, mlp  query heads and hidden units (tensor parallelism)
    kv_heads    key heads; a single one is replicated
    vocab       rows of the embedding
    replica     a batch axis, while `columns`, a weight's width, are on other devices

`WEIGHT_AXES` maps the axis letters of weights (`backbones.weights`) to logical axes;
other letters are never split.
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
    """Partition spec of an array with logical axes.

    Args:
      shape: of the array.
      names: logical name per axis, None for replicated, or `ANY` for the compiler's
        choice; axes after the last name are replicated.
      mesh: a `Mesh` or an abstract one. Each of its axes is used at most once, by the
        first name that maps to it and whose size it divides.
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
    """Constrains x to `partition_spec` on the mesh in context, if any."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    spec = partition_spec(x.shape, names, mesh)
    return jax.lax.with_sharding_constraint(x, spec)
