"""Lazy arrays: the common representation of all checkpoint formats.

A `Leaf` is one array of the model's tree on disk. It reads any slice in blocks of
bounded size, so a conversion holds one block in memory, a load holds its parameters,
and a host reads only its own part. Keys are paths in the tree, joined by "/":
`llm/layers/attn/q_einsum/w`.
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
    """One array of the model's tree, read on demand.

    Attributes:
      shape, dtype: of the whole array.
      blocks: index -> pairs (position within the indexed part, values) that tile it.
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
        """Index of the whole array."""
        return tuple(slice(0, n) for n in self.shape)

    def read(self, index: Index | None = None, dtype: Any = None) -> np.ndarray:
        """Reads a part of the array into memory that JAX can use without a copy.

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
    """An opened checkpoint: every stored tensor is assigned to a leaf.

    Attributes:
      kind: "hugging_face", "npz" or "orbax".
      path: of the checkpoint.
      config: model config.
      leaves: by key; without action projector for a plain PaliGemma.
      tokenizer: None if neither checkpoint nor caller has one.
      metadata: other stored information, kept by a conversion.
      notes: messages for the user, one line each.
      doubts: those of them that may mean that numbers are wrong.

    Raises:
      CheckpointError: the tokenizer's vocabulary does not fit the config.
    """

    kind: str
    path: AnyPath
    config: ModelConfig
    leaves: Mapping[str, Leaf]
    tokenizer: Tokenizer | None
    metadata: dict[str, Any]
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

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
    """Normalises slices to explicit start and stop."""
    return tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, shape))


def aligned_empty(shape: Iterable[int], dtype: np.dtype) -> np.ndarray:
    """Uninitialised array aligned to 64 bytes; JAX on CPU copies unaligned ones."""
    shape, dtype = tuple(shape), np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count].view(dtype).reshape(shape)


def row_chunks(index: Index, row_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Cuts the first axis of an index into pieces of at most `BLOCK_BYTES`.

    Yields:
      Rows in the array, and the same rows relative to the index.
    """
    first = index[0]
    step = max(1, BLOCK_BYTES // max(row_bytes, 1))
    for start in range(first.start, first.stop, step):
        stop = min(start + step, first.stop)
        yield slice(start, stop), slice(start - first.start, stop - first.start)


def check_dtype(name: str, dtype: np.dtype) -> None:
    """Raises a CheckpointError unless the dtype is one of `DTYPES`."""
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
            "loads it anyway"
        )


def convert_dtype(
    block: np.ndarray, dtype: np.dtype, origin: tuple[str, ...]
) -> np.ndarray:
    """Casts a block; values too large for float16 raise a CheckpointError."""
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
    """Reads leaves into JAX arrays, on each device only its part.

    Args:
      leaves: by key.
      sharding: of all leaves, or (key, shape struct) -> sharding; None puts all on
        the first local device.
      dtype: of the arrays, or key -> dtype; None keeps the stored ones.
      progress: called with the number of bytes of every leaf that was read.

    Returns:
      The nested tree.
    """
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    arrays: dict[str, Any] = dict.fromkeys(leaves)
    # Largest first, while memory is still free for a temporary copy.
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
