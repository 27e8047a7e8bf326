"""A scene: named object poses, in metres and radians.

`Scene` is the board's, `CubeScene` the cube arm's. Block names and sets follow
Language-Table and the Semantic World Models paper. A block id indexes `BLOCK_NAMES`
in both; both block sets of the board hold the same shapes in the same slots, so one
physics model serves both and only colours differ.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

SHAPES = ("moon", "pentagon", "cube", "star")
COLOURS = ("red", "blue", "green", "yellow", "purple")
BLOCK_NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
# Block id -> index into `COLOURS`.
COLOUR_OF_BLOCK = np.array([COLOURS.index(name.split()[0]) for name in BLOCK_NAMES])
SLOT_SHAPES = (
    "moon", "moon", "pentagon", "pentagon", "cube", "cube", "star", "star",
)  # fmt: skip


def block_id(name: str) -> int:
    """Index of a block such as "red moon" in `BLOCK_NAMES`."""
    return BLOCK_NAMES.index(name)


BLOCK_SETS = {
    "standard": tuple(
        map(
            block_id,
            (
                "red moon",
                "blue moon",
                "red pentagon",
                "yellow pentagon",
                "blue cube",
                "green cube",
                "green star",
                "yellow star",
            ),
        )
    ),
    "unseen": tuple(
        map(
            block_id,
            (
                "green moon",
                "yellow moon",
                "purple pentagon",
                "green pentagon",
                "red cube",
                "purple cube",
                "red star",
                "blue star",
            ),
        )
    ),
}


@struct.dataclass
class Scene:
    """Poses of everything on the board; any leading batch axes.

    Attributes:
      block_pose: float32[..., 8, 3], x, y in metres (board frame), yaw in radians.
      block_id: int32[..., 8], index into `BLOCK_NAMES` of the block in each slot.
      peg: float32[..., 2], x, y of the peg (the robot's effector) in metres.
    """

    block_pose: Float[Array, "... 8 3"]
    block_id: Int[Array, "... 8"]
    peg: Float[Array, "... 2"]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes."""
        return self.peg.shape[:-1]


# What lies on the cube arm's table, in this order; the first n of them for n cubes.
# (The paper's "yellow" cube is the one that OGBench paints orange.)
CUBES = tuple(map(block_id, ("red cube", "blue cube", "yellow cube", "green cube")))


@struct.dataclass
class CubeScene:
    """Poses of everything within the cube arm's reach; any leading batch axes.

    Attributes:
      block_pose: float32[..., n, 7], x, y, z of each cube's centre in metres and its
        orientation as a unit quaternion w, x, y, z.
      block_id: int32[..., n], index into `BLOCK_NAMES` of each cube.
      gripper: float32[..., 6], x, y, z of the point between the finger pads (metres),
        yaw (radians), and how far the pads on its left (+y of the gripper) and right
        stand from that point (metres).
    """

    block_pose: Float[Array, "... n 7"]
    block_id: Int[Array, "... n"]
    gripper: Float[Array, "... 6"]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes."""
        return self.gripper.shape[:-1]


AnyScene = Scene | CubeScene


def array_namespace(*trees: Any):
    """jnp when any leaf of the trees is a JAX array (or tracer), else numpy."""
    on_jax = any(isinstance(x, jax.Array) for x in jax.tree.leaves(trees))
    return jnp if on_jax else np
