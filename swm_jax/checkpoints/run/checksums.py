"""Sums over the bits of arrays: the same on every mesh, another after any damage."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ODD = np.uint32(2_654_435_761)  # close to 2**32 / golden ratio


def bit_sums(tree: Any) -> int:
    """One number for all bits of a tree of arrays, computed where they lie.

    Every 32-bit word is multiplied by an odd number that depends on its place in the
    array and added up modulo 2**32. A single changed word always changes the sum, and
    integer addition does not care how an array is split over devices. It waits for the
    devices.
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
    if leaf.dtype.itemsize == 8:  # an axis more, of two words
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    kinds = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
    kind = kinds[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
