"""Reading Orbax's arrays in blocks: every value once, whole chunks where possible."""

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st

from swm_jax.checkpoints.formats.orbax import arrays as orbax_arrays


def stored(shape, chunks):
    """A zarr array in memory, and its values."""
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    store = ts.open(
        {"driver": "zarr", "kvstore": {"driver": "memory"}},
        create=True,
        dtype=ts.float32,
        shape=shape,
        chunk_layout=ts.ChunkLayout(chunk_shape=chunks),
    ).result()
    store.write(values).result()
    return store, values


@given(
    rows=st.integers(1, 40),
    chunk=st.integers(1, 16),
    start=st.integers(0, 39),
    count=st.integers(1, 40),
    limit=st.integers(1, 200),
    columns=st.tuples(st.integers(0, 2), st.integers(3, 5)),
)
def test_blocks_tile_what_was_asked_for(rows, chunk, start, count, limit, columns):
    store, values = stored((rows, 5), (min(chunk, rows), 5))
    start = min(start, rows - 1)
    index = (slice(start, min(start + count, rows)), slice(*columns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orbax_arrays, "BLOCK_BYTES", limit)
        parts = list(orbax_arrays.blocks_of(store, index))
    seen = np.zeros(values[index].shape, int)
    for where, part in parts:
        seen[where] += 1
        np.testing.assert_array_equal(store[part].read().result(), values[index][where])
    assert (seen == 1).all()
    # A chunk is read by one block: it may be compressed, and is then read as a whole.
    size = store.chunk_layout.read_chunk.shape[0]
    chunks = [set(range(p[0].start // size, -(-p[0].stop // size))) for _, p in parts]
    assert sum(map(len, chunks)) == len(set.union(*chunks))
    # And no block is larger than it need be.
    row = 4 * (columns[1] - columns[0])
    assert all(
        len(c) == 1 or (p[0].stop - p[0].start) * row <= limit
        for c, (_, p) in zip(chunks, parts)
    )


def test_a_number_without_axes_is_one_block():
    store, values = stored((), ())
    ((where, part),) = orbax_arrays.blocks_of(store, ())
    assert store[part].read().result() == values and where == ()
