"""The scene of Push-T: a T and a peg in the plane, in metres and radians."""

from collections.abc import Mapping

import numpy as np
from flax import struct
from jaxtyping import Float, Int

from swm_jax.arrays import Array
from swm_jax.envs.scene import (
    Need,
    SceneFormat,
    StoredField,
    check_reach,
    planar_objects,
)
from swm_jax.worlds.pusht.geometry import SIDE

OBJECT_NAMES = ("T",)
_SLACK = 0.03  # metres by which hard pushes may exceed the walls (soft contacts)


class Scene(struct.PyTreeNode):
    """Poses of T and peg, with any leading batch axes.

    Attributes:
      block_pose: float32[..., 1, 3], x, y of the T's centroid in metres and yaw in
        radians.
      block_id: int32[..., 1], index into `OBJECT_NAMES`: 0.
      peg: float32[..., 2], x, y of the peg (gym_pusht's agent) in metres.
    """

    block_pose: Float[Array, "... 1 3"]
    block_id: Int[Array, "... 1"]
    peg: Float[Array, "... 2"]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes."""
        return self.peg.shape[:-1]


def check(state: Mapping[str, np.ndarray], need: Need) -> None:
    """Checks for a single T within reach of the table."""
    ids = state["block_id"].tolist()
    need(ids == [0], "block_id", ids, "[0]")
    check_reach("T", state["block_pose"][..., :2], 1.0, need)


_LOW, _HIGH = -_SLACK, SIDE + _SLACK

FORMAT = SceneFormat(
    kind=Scene,
    domain="pusht",
    state={
        "block_pose": StoredField((1, 3)),
        "peg": StoredField((2,)),
        "block_id": StoredField((1,), "int32", per_frame=False),
    },
    angles={"block_pose": (2,)},
    bounds={
        "block_pose": ((_LOW, _LOW, -np.pi), (_HIGH, _HIGH, np.pi)),
        "peg": ((_LOW, _LOW), (_HIGH, _HIGH)),
    },
    check=check,
    objects=planar_objects,
)
