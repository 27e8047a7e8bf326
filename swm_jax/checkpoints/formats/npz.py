"""big_vision's `.npz`: one member per parameter, `params/img/...` and `params/llm/...`.

bfloat16 is stored as in big_vision, as untyped two-byte values (`V2`). Uncompressed
members are memory-mapped block by block. Files written here also contain the model's
description and tokenizer, outside `params/`, which big_vision ignores. Pickles are
never loaded.
"""

import functools
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.checkpoints.formats.lazy_arrays import (
    DTYPES,
    Index,
    Leaf,
    check_dtype,
    check_finite,
    row_chunks,
)

PREFIX = "params/"
METADATA, TOKENIZER = "swm_jax/metadata", "swm_jax/tokenizer"


class Member(NamedTuple):
    """An array in a zip file; `offset` is its position, None if compressed."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int | None


class NpzContents(NamedTuple):
    """Contents of an npz file.

    Attributes:
      leaves: parameters by key, without the prefix `params/`.
      metadata, tokenizer: as stored by `write_npz`; None in big_vision's own files.
      ignored: names outside `params/`, such as optimizer state.
    """

    leaves: dict[str, Leaf]
    metadata: dict[str, Any] | None
    tokenizer: bytes | None
    ignored: tuple[str, ...]


def read_npz(path: Path, check: bool = True) -> NpzContents:
    """Opens an npz file as lazy arrays.

    Args:
      path: of the file.
      check: raise an error for NaN and infinity when values are read.

    Raises:
      CheckpointError: truncated, pickled, or an unsupported dtype.
    """
    members: dict[str, Member] = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            for info in archive.infolist():
                name = info.filename
                if not name.endswith(".npy"):
                    raise CheckpointError(
                        f"{path}: {name} is not an array; a PyTorch file holds a "
                        "pickle, which is never read: save it as safetensors"
                    )
                members[name[: -len(".npy")]] = _member(path, archive, file, info)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged or cut off: {error}") from error
    own = {name: members.pop(name, None) for name in (METADATA, TOKENIZER)}
    ignored: list[str] = []
    if any(name.startswith(PREFIX) for name in members):
        ignored = [name for name in members if not name.startswith(PREFIX)]
    leaves = {}
    for name, member in members.items():
        if name not in ignored:
            check_dtype(f"{path}: {name}", member.dtype)
            leaves[name.removeprefix(PREFIX)] = _leaf(member, check)
    raw = {
        name: b"".join(block.tobytes() for _, block in _blocks(member, None, False))
        for name, member in own.items()
        if member is not None
    }
    metadata = json.loads(raw[METADATA]) if raw.get(METADATA) else None
    return NpzContents(leaves, metadata, raw.get(TOKENIZER), tuple(ignored))


def _member(path: Path, archive, file, info: zipfile.ZipInfo) -> Member:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(stream)
        header = stream.tell()
    name = info.filename[: -len(".npy")]
    if dtype.hasobject:
        raise CheckpointError(f"{path}: {name} is pickled, and pickles are never read")
    if dtype.kind == "V" and dtype.itemsize == 2:
        dtype = DTYPES["bfloat16"]
    offset = None
    if info.compress_type == zipfile.ZIP_STORED:
        # The local header's name and extra field may differ from the central directory:
        # 30 bytes, with both lengths at byte 26, then name, extra field and data.
        file.seek(info.header_offset + 26)
        name_size, extra = np.frombuffer(file.read(4), "<u2")
        offset = info.header_offset + 30 + int(name_size) + int(extra) + header
    return Member(path, name, tuple(shape), dtype, bool(fortran), offset)


def _leaf(member: Member, check: bool) -> Leaf:
    blocks = functools.partial(_blocks, member, check=check)
    return Leaf(member.shape, member.dtype, blocks, (member.name,))


def _blocks(
    member: Member, index: Index | None, check: bool
) -> Iterator[tuple[Index, np.ndarray]]:
    if index is None:
        index = tuple(slice(0, n) for n in member.shape)
    name = f"{member.path}: {member.name}"
    try:
        if not index:
            yield (), _array(member)[()]
            return
        row = math.prod(s.stop - s.start for s in index[1:]) * member.dtype.itemsize
        for rows, where in row_chunks(index, row):
            block = np.array(_array(member)[(rows, *index[1:])])
            if check:
                check_finite(name, block)
            yield (where,), block
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise CheckpointError(f"{name} is damaged: {error}") from error


def _array(member: Member) -> np.ndarray:
    if member.offset is None or not math.prod(member.shape):
        return _decompress(member)
    return np.memmap(
        member.path,
        member.dtype,
        "r",
        member.offset,
        member.shape,
        "F" if member.fortran else "C",
    )


@functools.lru_cache(maxsize=1)
def _decompress(member: Member) -> np.ndarray:
    """Reads a compressed member whole; cached, because its blocks are read in turn."""
    with (
        zipfile.ZipFile(member.path) as archive,
        archive.open(f"{member.name}.npy") as stream,
    ):
        array = np.lib.format.read_array(stream, allow_pickle=False)
    return array.view(member.dtype) if array.dtype != member.dtype else array


def write_npz(
    path: Path,
    leaves: Mapping[str, Leaf],
    dtype: np.dtype | None,
    metadata: Mapping[str, Any],
    tokenizer: bytes | None,
) -> Iterator[int]:
    """Writes an uncompressed npz, block by block.

    Yields:
      Number of bytes of every written block.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key, leaf in leaves.items():
            kind = dtype or leaf.dtype
            with archive.open(f"{PREFIX}{key}.npy", "w", force_zip64=True) as stream:
                _write_header(stream, leaf.shape, kind)
                row = leaf.size // max(leaf.shape[0], 1) * leaf.dtype.itemsize
                for rows, _ in row_chunks(leaf.whole, row):
                    block = leaf.read((rows, *leaf.whole[1:]), kind)
                    stream.write(block.view(np.uint8).reshape(-1).data)
                    yield block.nbytes
        extra = {METADATA: json.dumps(metadata, sort_keys=True).encode()}
        if tokenizer is not None:
            extra[TOKENIZER] = tokenizer
        for name, value in extra.items():
            with archive.open(f"{name}.npy", "w") as stream:
                _write_header(stream, (len(value),), np.dtype(np.uint8))
                stream.write(value)


def _write_header(stream, shape: tuple[int, ...], dtype: np.dtype) -> None:
    descr = "|V2" if dtype == DTYPES["bfloat16"] else dtype.str
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
    )
