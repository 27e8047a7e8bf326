"""Checksums of array bits, independent of the mesh they are split over."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ODD = np.uint32(2_654_435_761)  # close to 2**32 / golden ratio


def bit_sums(tree: Any) -> int:
    """Checksum of a tree of arrays, computed on their devices; blocks until done.

    Every 32-bit word is multiplied by an odd number that depends on its index in the
    array, and summed modulo 2**32. Odd factors are invertible, so a single changed word
    always changes the sum; integer addition is independent of the sharding.
    """
    return int(_sums(jax.tree.leaves(tree)))


@jax.jit
def _sums(leaves):
    total = jnp.uint32(0)
    for leaf in leaves:
        total = total * jnp.uint32(31) + _sum(leaf)
    return total


def _sum(leaf):
    words = _words(leaf)
    # Flat index of every word, modulo 2**32.
    place, stride = jnp.uint32(0), 1
    for axis in reversed(range(words.ndim)):
        count = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place = place + count * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    odd = (place * _ODD) | jnp.uint32(1)
    return jnp.sum(words * odd, dtype=jnp.uint32)


def _words(leaf):
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint32)
    if leaf.dtype.itemsize == 8:  # adds an axis of two words
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    kinds = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
    kind = kinds[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
