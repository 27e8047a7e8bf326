"""Types of annotations: arrays, and what stands for them.

`Array` is the array of annotations: numpy's or JAX's, as in `Float[Array, "B 3"]`.

Scenes, batches and goals hold numpy arrays on the host and JAX arrays in a traced
function, and most functions take both. `jax.Array` and `np.ndarray` stand where only
one of them works.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import jax
import numpy as np

if TYPE_CHECKING:
    Array: TypeAlias = jax.Array | np.ndarray
else:
    # Tests check annotations when a function is called, and arithmetic on numpy arrays
    # without axes gives scalars. They lack what arrays have (no index), so that a type
    # checker is not told of them.
    Array = jax.Array | np.ndarray | np.generic

Indices: TypeAlias = Sequence[int] | Array
"""Whole numbers, one axis."""
