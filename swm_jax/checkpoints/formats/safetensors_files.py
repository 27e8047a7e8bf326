"""Safetensors files: a single file or shards with an index, read in slices.

Every read reopens its file: the library memory-maps files, and mapped pages count as
memory of the process while the map is open, which would double a model's size.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (numpy then knows the name bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open

from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.checkpoints.formats.lazy_arrays import DTYPES, Index
from swm_jax.choices import first_line
from swm_jax.files import parse_json, pointer_hint, read_text

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_CODES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_NAMES = {DTYPES[name]: code for code, name in _CODES.items()}


class StoredTensor(NamedTuple):
    """A stored tensor: its file, shape and dtype."""

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype


class PlannedTensor(NamedTuple):
    """A tensor to be written; `pieces` are its consecutive parts."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Iterable[np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
      CheckpointError: not there, or not a JSON object.
    """
    try:
        found = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        reason = pointer_hint(path) or f"cannot be read: {first_line(error)}"
        raise CheckpointError(f"{path} {reason}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return found


def list_tensors(
    folder: Path, keep: Callable[[str], bool] = lambda name: True
) -> dict[str, StoredTensor]:
    """Tensors of a folder by name; reads headers only.

    Args:
      folder: with one file, or shards and their index.
      keep: which names; others may be of any dtype.

    Raises:
      CheckpointError: no safetensors, a missing or damaged shard, an index that
        disagrees with the shards, or an unsupported dtype.
    """
    if (folder / SINGLE).is_file():
        return list_file(folder / SINGLE, keep)
    if not (folder / INDEX).is_file():
        files = sorted(folder.glob("*.safetensors"))
        if len(files) != 1:
            raise CheckpointError(
                f"{folder} has {len(files)} .safetensors files and no {INDEX}"
            )
        return list_file(files[0], keep)
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{folder / INDEX} has no weight_map")
    found: dict[str, StoredTensor] = {}
    for name in sorted(set(map(str, where.values()))):
        if Path(name).name != name:
            raise CheckpointError(f"{folder / INDEX} names {name}, no file beside it")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks the shard {name}")
        found |= list_file(folder / name, keep)
    for name in sorted({*filter(keep, where)} ^ {*found}):
        place = "index" if name in where else "shards"
        raise CheckpointError(f"{folder}: {name} is in the {place} only")
    for name, tensor in found.items():
        if where[name] != tensor.file.name:
            raise CheckpointError(
                f"{folder}: {name} is in {tensor.file.name}, the index says "
                f"{where[name]}"
            )
    return found


def list_file(
    path: Path, keep: Callable[[str], bool] = lambda name: True
) -> dict[str, StoredTensor]:
    """`list_tensors` of one file."""
    found = {}
    with _open(path) as file:
        for name in filter(keep, file.keys()):
            view = file.get_slice(name)
            code = view.get_dtype()
            if code not in _CODES:
                raise CheckpointError(
                    f"{path}: {name} has dtype {code}, expected {', '.join(_CODES)}; "
                    "quantised checkpoints are not supported"
                )
            shape = tuple(view.get_shape())
            found[name] = StoredTensor(path, shape, DTYPES[_CODES[code]])
    return found


def _open(path: Path):
    try:
        return safe_open(path, "np")
    except (SafetensorError, OSError) as error:
        reason = pointer_hint(path) or f"is damaged or cut off: {first_line(error)}"
        raise CheckpointError(f"{path} {reason}") from error


def read_slice(name: str, tensor: StoredTensor, index: Index) -> np.ndarray:
    """Reads a slice of a stored tensor as a copy."""
    with _open(tensor.file) as file:
        if all(s == slice(0, n) for s, n in zip(index, tensor.shape)):
            return file.get_tensor(name)
        return file.get_slice(name)[index]


def write_tensors(
    folder: Path, tensors: list[PlannedTensor], shard_bytes: int
) -> Iterator[int]:
    """Writes one file, or shards and their index, piece by piece.

    The library's writer needs a whole file in memory, so the format (a JSON header and
    the bytes in order) is written here.

    Yields:
      Number of bytes of every written piece.
    """
    shards: list[list[PlannedTensor]] = [[]]
    for tensor in tensors:
        full = sum(t.nbytes for t in shards[-1]) + tensor.nbytes > shard_bytes
        if full and shards[-1]:
            shards.append([])
        shards[-1].append(tensor)
    count = len(shards)
    names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    if count == 1:
        names = [SINGLE]
    for name, shard in zip(names, shards):
        yield from _write_file(folder / name, shard)
    if count > 1:
        where = {t.name: n for n, shard in zip(names, shards) for t in shard}
        size = {"total_size": sum(t.nbytes for t in tensors)}
        text = json.dumps({"metadata": size, "weight_map": where}, indent=2)
        (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _write_file(path: Path, tensors: list[PlannedTensor]) -> Iterator[int]:
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape, dtype, _ in tensors:
        end = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for piece in tensor.pieces:
                file.write(np.ascontiguousarray(piece).view(np.uint8).reshape(-1).data)
                yield piece.nbytes
