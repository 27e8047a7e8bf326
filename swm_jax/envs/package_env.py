"""Base class for envs of other packages: one world at a time, on the host, in numpy.

Axes: B worlds, H control steps, A action width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Key

from swm_jax.arrays import Array
from swm_jax.envs.env import Env, Scene, State


class PackageEnv(Env[State, Scene]):
    """Env whose batched methods loop over `reset` and `step` of one world."""

    traceable = False

    def reset_batch(self, keys: Key[Any, " B"]) -> State:
        return stack([self.reset(key) for key in keys])

    def step_batch(self, states: State, actions: Float[Array, "B A"]) -> State:
        """`step` for B worlds, one after the other."""
        return stack([self.step(*each) for each in zip(worlds_of(states), actions)])

    def rollout_batch(self, states: State, actions: Float[Array, "B H A"]) -> Scene:
        scenes = [self.scene(states)]
        for t in range(actions.shape[1]):
            states = self.step_batch(states, actions[:, t])
            scenes.append(self.scene(states))
        return stack(scenes, 1)


def seed_of(key: Key[Any, ""] | int) -> int:
    """Integer seed of a key, for the reset of a package.

    For `prng.key(seed)` it is that seed; for other keys, the number of their two words.
    """
    if isinstance(key, int):
        return key
    high, low = np.asarray(jax.random.key_data(key)).reshape(-1)[-2:].tolist()
    return high << 32 | low


def numpy_seed(seed: int) -> int | list[int]:
    """Argument of numpy's `RandomState`, which takes 32 bits or a list of words."""
    return seed if seed < 2**32 else [seed & 0xFFFFFFFF, seed >> 32]


def worlds_of(states: State) -> Iterator[State]:
    """Iterator over the single states of a batch."""
    leaves, tree = jax.tree.flatten(states)
    for parts in zip(*leaves):
        yield tree.unflatten(parts)


def stack(items: Sequence[Any], axis: int = 0) -> Any:
    """Stacks pytrees along a new axis, in numpy."""
    return jax.tree.map(lambda *x: np.stack(x, axis), *items)
