"""Random draws that depend on the seed alone, in place of `jax.random`'s.

    key = prng.key(5000)
    place = prng.uniform(prng.fold_in(key, 1), (2,), minval=-1.0)    # float32[2]

JAX takes from the environment what changes the numbers of a seed: the generator
(JAX_DEFAULT_PRNG_IMPL), an offset (JAX_RANDOM_SEED_OFFSET), the way in which Threefry
counts (JAX_THREEFRY_PARTITIONABLE) and the default width of numbers (JAX_ENABLE_X64).
Here they are fixed: Threefry, no offset, partitionable, 32 bits. The numbers are those
of `jax.random` under JAX's own defaults.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Key

IMPL = "threefry2x32"
MOST = 2**64 - 1  # largest seed

Draw = TypeVar("Draw", bound=Callable[..., Any])


def key(seed: Any) -> Key[jax.Array, ""]:
    """The key of a seed; all 64 bits count.

    Args:
      seed: 0 to 2**64 - 1, or an integer traced by JAX.

    Raises:
      ValueError: a seed that is out of range.
    """
    if isinstance(seed, Tracer):  # 32 bits, the width of JAX's integers
        low = seed.astype(jnp.uint32)
        words = jnp.stack([jnp.zeros_like(low), low])
        return jax.random.wrap_key_data(words, impl=IMPL)
    seed = check(seed)
    words = jnp.asarray([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32)
    return jax.random.wrap_key_data(words, impl=IMPL)


def check(seed: Any, name: str = "seed") -> int:
    """Returns a seed as an int; raises ValueError unless it is 0 to 2**64 - 1."""
    if not 0 <= seed <= MOST:
        raise ValueError(f"{name} is {seed}, expected 0 to 2**64 - 1")
    return int(seed)


def _setting(name: str) -> bool:
    return getattr(jax.config, name)


@contextlib.contextmanager
def fixed():
    """Context in which `jax.random` counts as by default, for code of others.

    Initializers of Flax, for example, draw by themselves.
    """
    if _setting("jax_threefry_partitionable"):
        yield
    else:
        with jax.threefry_partitionable(True):
            yield


@contextlib.contextmanager
def in_32_bits():
    """Context, or decorator, that computes in 32 bits under JAX_ENABLE_X64 too."""
    if _setting("jax_enable_x64"):
        with jax.enable_x64(False):
            yield
    else:
        yield


def _fixed(draw: Draw, **defaults: Any) -> Draw:
    """`draw` with these keywords as defaults, in the context `fixed`."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs):
        with fixed():
            return draw(*args, **{**defaults, **kwargs})

    return wrapped  # pyright: ignore[reportReturnType]


split = _fixed(jax.random.split)
fold_in = _fixed(jax.random.fold_in)
permutation = _fixed(jax.random.permutation)
uniform = _fixed(jax.random.uniform, dtype=jnp.float32)
normal = _fixed(jax.random.normal, dtype=jnp.float32)
gumbel = _fixed(jax.random.gumbel, dtype=jnp.float32)
exponential = _fixed(jax.random.exponential, dtype=jnp.float32)
randint = _fixed(jax.random.randint, dtype=jnp.int32)


def categorical(key: Any, logits: Any, axis: int = -1, **kwargs: Any) -> jax.Array:
    """Indices drawn by their logits, int32; keywords of `jax.random.categorical`."""
    with fixed():
        logits = jnp.asarray(logits, jnp.float32)
        return jax.random.categorical(key, logits, axis, **kwargs).astype(jnp.int32)


def choice(
    key: Any,
    count: int,
    shape: tuple[int, ...] = (),
    replace: bool = True,
    p: Any = None,
) -> jax.Array:
    """Indices below `count`, int32.

    Args:
      key: of the draw.
      count: number of things to choose from.
      shape: of the result.
      replace: whether one may be chosen more than once.
      p: probabilities, float[count]; None: equal ones.
    """
    p = None if p is None else jnp.asarray(p, jnp.float32)
    with fixed():
        things = jnp.arange(count, dtype=jnp.int32)
        return jax.random.choice(key, things, shape, replace, p)
