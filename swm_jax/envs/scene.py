"""Shared parts of scenes: names and colours of blocks, format of stored scenes.

A scene has the poses of one world as arrays, in metres and radians, with any leading
axes; its struct is in the world's folder (`worlds/<world>/scene.py`). An object's id is
its index in the object names of the world's language; for blocks these are
`BLOCK_NAMES`, which follow Language-Table and the Semantic World Models paper.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from swm_jax.arrays import Array

SHAPES = ("moon", "pentagon", "cube", "star")
COLOURS = ("red", "blue", "green", "yellow", "purple")
BLOCK_NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
# Block id -> index into `COLOURS`.
COLOUR_OF_BLOCK = np.array([COLOURS.index(name.split()[0]) for name in BLOCK_NAMES])

Triple = tuple[float, float, float]  # red, green, blue in [0, 1]; or x, y, z
# (good, field, value seen, value expected) -> None; raises unless good.
Need = Callable[[Any, str, Any, Any], None]


def grey(share: float) -> Triple:
    """A colour without a hue, 0 black and 1 white."""
    return share, share, share


def block_id(name: str) -> int:
    """Index of a block such as "red moon" in `BLOCK_NAMES`."""
    return BLOCK_NAMES.index(name)


@runtime_checkable
class AnyScene(Protocol):
    """Poses of one world: a struct of arrays with any leading axes."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes."""
        ...

    def replace(self, **changes: Any) -> Any:
        """A copy with other arrays."""
        ...


@dataclasses.dataclass(frozen=True)
class StoredField:
    """One array of a scene, as episodes store it.

    Attributes:
      shape: without the frame axis; None for any size.
      dtype: numpy's name of it.
      per_frame: True for one value per frame, False for one per episode.
    """

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    per_frame: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class SceneFormat:
    """Format of a world's scenes: the struct, and its stored arrays.

    Attributes:
      kind: the struct; `kind(**arrays)` makes a scene.
      domain: name of the domain of stored episodes with these scenes.
      state: name -> field; the struct has the same names.
      angles: name -> indices into the last axis that are angles in radians.
      bounds: name -> lowest and highest values of each number of the last axis; arrays
        without an entry are unbounded.
      check: validates the values of [T + 1, ...] arrays, raising through a `Need`.
      objects: scene -> coordinates [..., K, A] (metres) and yaw [..., K] (radians) of
        the robot and then the objects by slot; None where nothing is trained on them.
    """

    kind: type[Any]
    domain: str
    state: Mapping[str, StoredField]
    angles: Mapping[str, tuple[int, ...]]
    bounds: Mapping[str, tuple[Any, Any]]
    check: Callable[[Mapping[str, np.ndarray], Need], None]
    objects: Callable[[Any], tuple[Array, Array]] | None = None


def planar_objects(scene: Any) -> tuple[Array, Array]:
    """`SceneFormat.objects` of a round peg and blocks with poses x, y, yaw."""
    xp = array_namespace(scene.block_pose, scene.peg)
    pose, peg = scene.block_pose, scene.peg[..., None, :]
    yaw = xp.concatenate([xp.zeros_like(peg[..., 0]), pose[..., 2]], -1)
    return xp.concatenate([peg, pose[..., :2]], -2), yaw


def check_block_ids(ids: np.ndarray, need: Need) -> None:
    """Checks that ids are distinct indices of `BLOCK_NAMES`."""
    known = ((ids >= 0) & (ids < len(BLOCK_NAMES))).all()
    need(known, "block_id", ids.tolist(), f"ids below {len(BLOCK_NAMES)}")
    different = len(set(ids.tolist())) == len(ids) >= 1
    need(different, "block_id", ids.tolist(), "different blocks")


def check_reach(what: str, place: np.ndarray, farthest: float, need: Need) -> None:
    """Checks for positions within `farthest` metres, which detects diverged physics."""
    reach = np.abs(place).max()
    good = reach < farthest
    need(good, f"farthest {what}", f"{reach:.2f} m", f"below {farthest} m")


def array_namespace(*trees: Any) -> Any:
    """jnp when any leaf of the trees is a JAX array (or tracer), else numpy."""
    on_jax = any(isinstance(x, jax.Array) for x in jax.tree.leaves(trees))
    return jnp if on_jax else np
