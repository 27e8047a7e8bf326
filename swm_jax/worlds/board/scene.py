"""The board's scene: eight blocks and a peg in the plane, in metres and radians.

Block sets follow Language-Table and the Semantic World Models paper. Both have the same
shapes in the same slots and differ in colours only, so they share one physics model.
"""

from collections.abc import Mapping

import numpy as np
from flax import struct
from jaxtyping import Float, Int

from swm_jax.arrays import Array
from swm_jax.envs.scene import (
    Need,
    SceneFormat,
    StoredField,
    block_id,
    check_block_ids,
    check_reach,
    planar_objects,
)
from swm_jax.worlds.board.geometry import X_BOUNDS, Y_BOUNDS

SLOT_SHAPES = (
    "moon", "moon", "pentagon", "pentagon", "cube", "cube", "star", "star",
)  # fmt: skip
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
_SLACK = 0.03  # metres by which hard pushes may exceed the walls (soft contacts)


class Scene(struct.PyTreeNode):
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


def check(state: Mapping[str, np.ndarray], need: Need) -> None:
    """Checks for eight different blocks within reach of the board."""
    check_block_ids(state["block_id"], need)
    check_reach("block", state["block_pose"][..., :2], 1.0, need)


_LOW = np.array([X_BOUNDS[0], Y_BOUNDS[0]]) - _SLACK
_HIGH = np.array([X_BOUNDS[1], Y_BOUNDS[1]]) + _SLACK

FORMAT = SceneFormat(
    kind=Scene,
    domain="board",
    state={
        "block_pose": StoredField((8, 3)),
        "peg": StoredField((2,)),
        "block_id": StoredField((8,), "int32", per_frame=False),
    },
    angles={"block_pose": (2,)},
    bounds={
        "block_pose": ((*_LOW, -np.pi), (*_HIGH, np.pi)),
        "peg": (_LOW, _HIGH),
    },
    check=check,
    objects=planar_objects,
)
