"""Parameters that are read piece by piece: what every checkpoint format is made of.

A `Leaf` is one array of the model's tree that still lies on disk. It gives any slice
of itself as blocks of bounded size, so a conversion never holds more than a block,
a load never holds more than its parameters and a host reads only its own part.
Keys are paths in the tree, joined by "/": `llm/layers/attn/q_einsum/w`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax.traverse_util import unflatten_dict

from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.files import AnyPath
from swm_jax.models import ModelConfig, SemanticWorldModel, Tokenizer
from swm_jax.models.backbones.weights import named_leaves

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
BLOCK_BYTES = 64 << 20

Index = tuple[slice, ...]
"""Slices with explicit start and stop, one per axis."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of the model's tree, not yet read.

    Attributes:
      shape, dtype: of the whole array.
      blocks: index -> pairs (where in the indexed part, values), which tile it.
      origin: names of the stored tensors it is made of.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[Index], Iterable[tuple[Index, np.ndarray]]]
    origin: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def whole(self) -> Index:
        """The index of everything."""
        return tuple(slice(0, n) for n in self.shape)

    def read(self, index: Index | None = None, dtype: Any = None) -> np.ndarray:
        """A part of the array, in memory that JAX can take over without a copy.

        Args:
          index: slices without steps, one per axis; None reads everything.
          dtype: of the result; None keeps the stored one.

        Raises:
          CheckpointError: damaged, or a value does not fit `dtype`.
        """
        index = bounds(self.whole if index is None else index, self.shape)
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        out = aligned_empty([s.stop - s.start for s in index], dtype)
        for where, block in self.blocks(index):
            out[where] = convert_dtype(block, dtype, self.origin)
        return out


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that was opened and whose every tensor is accounted for.

    Attributes:
      kind: "hugging_face", "npz" or "orbax".
      path: what was opened.
      config: the model's.
      leaves: by key; the action projector is absent from a plain PaliGemma.
      tokenizer: None where neither the checkpoint nor the caller has one.
      metadata: what is known beyond the tensors; goes along with a conversion.
      notes: what a person should know, one line each.
    """

    kind: str
    path: AnyPath
    config: ModelConfig
    leaves: Mapping[str, Leaf]
    tokenizer: Tokenizer | None
    metadata: dict[str, Any]
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if self.tokenizer is not None:
            try:
                self.tokenizer.check(self.config)
            except ValueError as error:
                raise CheckpointError(f"{self.path}: {error}") from error


def model_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Key and shape of every parameter of a model."""
    shapes = SemanticWorldModel(config).param_shapes()
    return {key: leaf.shape for key, leaf in named_leaves(shapes).items()}


def bounds(index: Index, shape: tuple[int, ...]) -> Index:
    """The index with explicit start and stop."""
    return tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, shape))


def aligned_empty(shape: Iterable[int], dtype: np.dtype) -> np.ndarray:
    """Uninitialised memory at a multiple of 64 bytes: JAX on CPU copies the rest."""
    shape, dtype = tuple(shape), np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count].view(dtype).reshape(shape)


def row_chunks(index: Index, row_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Cuts the first axis of an index into pieces of at most `BLOCK_BYTES`.

    Yields:
      The rows in the array, and in the indexed part.
    """
    first = index[0]
    step = max(1, BLOCK_BYTES // max(row_bytes, 1))
    for start in range(first.start, first.stop, step):
        stop = min(start + step, first.stop)
        yield slice(start, stop), slice(start - first.start, stop - first.start)


def check_dtype(name: str, dtype: np.dtype) -> None:
    """Raises a CheckpointError unless parameters may have this dtype."""
    if dtype not in DTYPES.values():
        raise CheckpointError(
            f"{name} has dtype {dtype}, expected {', '.join(DTYPES)}; quantised "
            "checkpoints are not supported"
        )


def check_finite(name: str, block: np.ndarray) -> None:
    """Raises a CheckpointError if a block holds NaN or infinity."""
    if block.dtype.itemsize == 2:
        # All exponent bits set means NaN or infinity; integers are quicker to test.
        mask = 0x7F80 if block.dtype == DTYPES["bfloat16"] else 0x7C00
        bad = (np.ascontiguousarray(block).view(np.uint16) & mask == mask).any()
    else:
        bad = not np.isfinite(block).all()
    if bad:
        raise CheckpointError(
            f"{name} holds NaN or infinity; --nocheck_finite (check_finite=False) "
            "reads it all the same"
        )


def convert_dtype(
    block: np.ndarray, dtype: np.dtype, origin: tuple[str, ...]
) -> np.ndarray:
    """The block in another dtype; a value too large for it is an error."""
    if block.dtype == dtype:
        return block
    with np.errstate(over="ignore"):
        out = block.astype(dtype)
    if dtype == DTYPES["float16"] and (np.isinf(out) & ~np.isinf(block)).any():
        raise CheckpointError(f"{origin[0]} holds values too large for {dtype}")
    return out


def to_arrays(
    leaves: Mapping[str, Leaf],
    sharding: Any = None,
    dtype: Any = None,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Reads leaves into JAX arrays, each device only its part.

    Args:
      leaves: by key.
      sharding: of all leaves, or (key, shape struct) -> sharding; None puts all on
        the first local device.
      dtype: of the arrays, or key -> dtype; None keeps the stored ones.
      progress: told the bytes of every leaf when it is read.

    Returns:
      The nested tree.
    """
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    arrays: dict[str, Any] = dict.fromkeys(leaves)
    # Largest first: what a copy on the way may need is then there.
    for key in sorted(leaves, key=lambda k: -leaves[k].size * leaves[k].dtype.itemsize):
        leaf = leaves[key]
        wanted: Any = dtype(key) if callable(dtype) else dtype
        kind = np.dtype(wanted or leaf.dtype)
        struct = jax.ShapeDtypeStruct(leaf.shape, kind)
        place: Any = sharding(key, struct) if callable(sharding) else sharding
        arrays[key] = jax.make_array_from_callback(
            leaf.shape,
            place,
            lambda index, leaf=leaf, kind=kind: leaf.read(index, kind),
        )
        progress(leaf.size * leaf.dtype.itemsize)
    return unflatten_dict(arrays, sep="/")
