"""Parameters as lazy slices of Hugging Face tensors, and the inverse (see `table`)."""

import functools
import math
from collections.abc import Iterator, Mapping

import numpy as np

from swm_jax.checkpoints.errors import CheckpointError, listed
from swm_jax.checkpoints.formats.huggingface.table import (
    EMBED_NAME,
    EMBEDDING,
    HEAD_NAME,
    Rule,
    canonical,
    rules_for,
)
from swm_jax.checkpoints.formats.lazy_arrays import (
    Index,
    Leaf,
    check_finite,
    row_chunks,
)
from swm_jax.checkpoints.formats.safetensors_files import StoredTensor, read_slice


def to_leaves(
    shapes: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, StoredTensor],
    where: str,
    check: bool,
) -> dict[str, Leaf]:
    """Our parameters as slices of stored tensors.

    Args:
      shapes: of our parameters, by key.
      stored: tensors by stored name.
      where: the checkpoint, for messages.
      check: raise an error for NaN and infinity when values are read.

    Raises:
      CheckpointError: missing, left-over or misshapen tensors, listed in the message.
    """
    names = canonical(stored)
    if EMBED_NAME not in names and HEAD_NAME in names:
        # Of two tied tensors, some writers keep the head's name.
        names[EMBED_NAME] = names.pop(HEAD_NAME)
    head = names.pop(HEAD_NAME, None)
    missing, misshapen, leaves = [], [], {}
    left = dict(names)
    for key, rule in rules_for(shapes).items():
        shape, places = shapes[key], rule.names(shapes[key])
        want = rule.their_shape(shape)
        missing += [name for name in places if left.pop(name, None) is None]
        found = {name: stored[names[name]] for name in places if name in names}
        for name, tensor in found.items():
            if not _fits(key, tensor.shape, want):
                misshapen.append(f"{names[name]} has shape {tensor.shape}, not {want}")
        dtypes = {tensor.dtype for tensor in found.values()}
        if len(dtypes) > 1:
            raise CheckpointError(
                f"{where}: the layers of {rule.theirs[0]} have different dtypes: "
                f"{', '.join(sorted(map(str, dtypes)))}"
            )
        if len(found) == len(places):
            at = {place: names[name] for name, place in places.items()}
            blocks = functools.partial(_blocks, rule, shape, at, stored, where, check)
            if key == EMBEDDING and head:
                if stored[head].shape != found[EMBED_NAME].shape:
                    misshapen.append(f"{head} has another shape than {EMBED_NAME}")
                blocks = functools.partial(_tied, blocks, names, head, stored, where)
            leaves[key] = Leaf(shape, dtypes.pop(), blocks, tuple(at.values()))
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} is left over" for name in left.values()] + misshapen
    if problems:
        raise CheckpointError(
            f"{where}: config.json and tensors disagree: {listed(problems)}"
        )
    return leaves


def _fits(key: str, shape: tuple[int, ...], want: tuple[int, ...]) -> bool:
    if key == EMBEDDING:  # rows behind the vocabulary are padding
        return len(shape) == 2 and shape[1] == want[1] and shape[0] >= want[0]
    return shape == want


def _blocks(
    rule: Rule, shape, at, stored, where: str, check: bool, index: Index
) -> Iterator[tuple[Index, np.ndarray]]:
    lead, inner = index[: rule.lead], index[rule.lead :]
    sizes = rule.sizes(shape)
    asked = dict(zip(rule.axes, inner))
    groups = rule.order.split()
    # A slice of a merged axis is contiguous in its first letter only: other letters are
    # read whole and cut afterwards.
    rest = {group: math.prod(sizes[a] for a in group[1:]) for group in groups}
    letters = "".join(groups)
    split = [
        asked[a].stop - asked[a].start if any(a == g[0] for g in groups) else sizes[a]
        for a in letters
    ]
    turn = [letters.index(a) for a in rule.axes]
    cut = tuple(
        slice(None) if any(a == g[0] for g in groups) else asked[a] for a in rule.axes
    )
    chunked = rule.axes == letters and len(groups) == len(letters) and not lead
    for place in np.ndindex(*[s.stop - s.start for s in lead]):
        name = at[tuple(s.start + i for s, i in zip(lead, place))]
        tensor = stored[name]
        theirs = tuple(
            slice(asked[g[0]].start * rest[g], asked[g[0]].stop * rest[g])
            for g in groups
        )
        if not chunked:
            block = _read(name, tensor, theirs, where, check)
            block = block.reshape(split).transpose(turn)[cut]
            yield tuple(slice(i, i + 1) for i in place), block[(None,) * rule.lead]
            continue
        row = math.prod(s.stop - s.start for s in theirs[1:]) * tensor.dtype.itemsize
        for rows, to in row_chunks(theirs, row):
            yield (to,), _read(name, tensor, (rows, *theirs[1:]), where, check)


def _read(name, tensor: StoredTensor, index: Index, where: str, check: bool):
    block = read_slice(name, tensor, index)
    if check:
        check_finite(f"{where}: {name}", block)
    return block


def _tied(blocks, names, head: str, stored, where: str, index: Index):
    """Blocks of the embedding, checked for equality with the stored output head."""
    for place, block in blocks(index):
        rows = slice(index[0].start + place[0].start, index[0].start + place[0].stop)
        other = read_slice(head, stored[head], (rows, index[1]))
        if other.dtype != block.dtype or other.tobytes() != block.tobytes():
            raise CheckpointError(
                f"{where}: {head} differs from {names[EMBED_NAME]} in rows "
                f"{rows.start}..{rows.stop - 1}; this model reads answers with its "
                "embedding (tied)"
            )
        yield place, block


def their_pieces(
    rule: Rule, leaf: Leaf, place: tuple[int, ...], dtype: np.dtype, rows: int
) -> Iterator[np.ndarray]:
    """Values of one Hugging Face tensor, in consecutive pieces.

    Args:
      rule: of the parameter.
      leaf: our parameter.
      place: our index on the leading axes.
      dtype: of the result.
      rows: rows of the stored embedding; padding rows repeat the mean row, whose logit
        is never the largest.
    """
    inner = leaf.whole[rule.lead :]
    if rule.ours == EMBEDDING:
        total = np.zeros(leaf.shape[1])
        for chunk, _ in row_chunks(leaf.whole, leaf.shape[1] * leaf.dtype.itemsize):
            block = leaf.read((chunk, leaf.whole[1]), dtype)
            total += block.sum(0, dtype=np.float64)
            yield block
        mean = (total / leaf.shape[0]).astype(dtype)
        yield np.broadcast_to(mean, (rows - leaf.shape[0], leaf.shape[1]))
        return
    index = (*(slice(i, i + 1) for i in place), *inner)
    block = leaf.read(index, dtype).reshape(leaf.shape[rule.lead :])
    letters = rule.order.replace(" ", "")
    yield block.transpose([rule.axes.index(a) for a in letters])
