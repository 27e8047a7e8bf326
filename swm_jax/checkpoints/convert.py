"""Conversion between checkpoint formats, block by block.

Stored dtypes are kept by default, so a round trip is bit-identical. The result is
written to a temporary folder beside the destination and renamed when complete.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.checkpoints.formats.detect import FORMATS
from swm_jax.checkpoints.formats.huggingface.folder import SHARD_BYTES, write_folder
from swm_jax.checkpoints.formats.lazy_arrays import DTYPES, Source
from swm_jax.checkpoints.formats.npz import write_npz
from swm_jax.checkpoints.formats.orbax.folder import write_orbax
from swm_jax.files import local_path


def target_format(destination: Path) -> str:
    """Default format of a destination: "npz" by its suffix, otherwise "orbax"."""
    return "npz" if destination.suffix == ".npz" else "orbax"


def convert(
    source: Source,
    destination: str | Path,
    target: str | None = None,
    dtype: str | None = None,
    progress: Callable[[int], None] = lambda count: None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes a source in another format.

    Args:
      source: from `open_source`.
      destination: must not exist.
      target: one of `FORMATS`; None follows the destination's name.
      dtype: of all parameters, one of `DTYPES`; None keeps the stored ones.
      progress: called with the number of bytes of every finished block.
      shard_bytes: maximum size of a safetensors file.

    Returns:
      The destination.

    Raises:
      CheckpointError: a tensor cannot be read or does not fit, or the destination
        exists; nothing is written.
    """
    destination = local_path(destination).absolute()
    target = target or target_format(destination)
    if target not in FORMATS:
        raise CheckpointError(f"unknown format {target!r}, expected {FORMATS}")
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"unknown dtype {dtype!r}, expected {', '.join(DTYPES)}")
    if destination.exists():
        raise CheckpointError(f"{destination} exists; nothing is overwritten")
    kind: np.dtype | None = DTYPES[dtype] if dtype else None
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=destination.parent, prefix=".convert-"))
    result = staging / destination.name
    try:
        if target == "npz":
            own = {k: v for k, v in source.metadata.items() if k != "tokenizer"}
            model = source.tokenizer and source.tokenizer.model
            for count in write_npz(result, source.leaves, kind, own, model):
                progress(count)
        else:
            result.mkdir()
            if target == "orbax":
                write_orbax(result, source, kind, progress)
            else:
                for count in write_folder(result, source, kind, shard_bytes):
                    progress(count)
        os.replace(result, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return destination


def listing(source: Source) -> str:
    """One line per parameter (key, dtype, shape, stored names), and a summary."""
    leaves = source.leaves
    width = max(map(len, leaves))
    lines = []
    for key, leaf in leaves.items():
        ends = leaf.origin[:: max(1, len(leaf.origin) - 1)]  # the first and the last
        shape = "x".join(map(str, leaf.shape))
        lines.append(
            f"{key:{width}}  {leaf.dtype!s:8}  {shape:20}  {' .. '.join(ends)}"
        )
    lines.append(summary(source))
    return "\n".join(lines)


def summary(source: Source) -> str:
    """Description of a source in a few lines: format, model, tokenizer, notes."""
    c, leaves = source.config, source.leaves.values()
    count = sum(leaf.size for leaf in leaves)
    tensors = sum(len(leaf.origin) for leaf in leaves)
    dtypes = sorted({str(leaf.dtype) for leaf in leaves})
    tokenizer = source.tokenizer
    words = f"{tokenizer.vocab_size} pieces" if tokenizer else "none found"
    lines = [
        f"{source.path}: {source.kind}, {tensors} tensors, {count:,} parameters, "
        f"{', '.join(dtypes)}, {source_bytes(source) / 1e9:.2f} GB",
        f"  model      {c.variant}, {c.image_size} px, width {c.width}, "
        f"depth {c.depth}, vocabulary {c.vocab_size:,}, layout {c.layout}",
        f"  tokenizer  {words}; eos {c.eos_id}, bos {c.bos_id}, newline {c.newline_id}",
    ]
    return "\n".join(lines + [f"  note       {note}" for note in source.notes])


def source_bytes(source: Source) -> int:
    """Bytes of all parameters as stored."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in source.leaves.values())
