"""Array types for annotations.

`Array` is a numpy or JAX array, as in `Float[Array, "B 3"]`. Scenes, batches and goals
hold numpy arrays on the host and JAX arrays inside a traced function, and most
functions take both. `jax.Array` or `np.ndarray` is written where only one works.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import jax
import numpy as np

if TYPE_CHECKING:
    Array: TypeAlias = jax.Array | np.ndarray
else:
    # Tests check annotations at run time, and arithmetic on 0-d numpy arrays returns
    # np.generic scalars. Type checkers see the union without them, because scalars
    # cannot be indexed.
    Array = jax.Array | np.ndarray | np.generic

Indices: TypeAlias = Sequence[int] | Array
"""One-dimensional sequence of integers."""
