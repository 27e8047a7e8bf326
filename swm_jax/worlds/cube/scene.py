"""The cube arm's scene: one to four cubes and a gripper, in metres and radians."""

from collections.abc import Mapping

import numpy as np
from flax import struct
from jaxtyping import Float, Int

from swm_jax.arrays import Array
from swm_jax.envs.scene import (
    Need,
    SceneFormat,
    StoredField,
    array_namespace,
    block_id,
    check_block_ids,
    check_reach,
)
from swm_jax.worlds.cube import geometry

# Cubes on the table by slot; n cubes are the first n of them.
# (The paper's "yellow" cube is the one that OGBench paints orange.)
CUBES = tuple(map(block_id, ("red cube", "blue cube", "yellow cube", "green cube")))


class CubeScene(struct.PyTreeNode):
    """Poses of gripper and cubes, with any leading batch axes.

    Attributes:
      block_pose: float32[..., n, 7], x, y, z of each cube's centre in metres and its
        orientation as a unit quaternion w, x, y, z.
      block_id: int32[..., n], index into `BLOCK_NAMES` of each cube.
      gripper: float32[..., 6], x, y, z of the point between the finger pads (metres),
        yaw (radians), and the distances of the left (+y of the gripper) and the right
        pad from that point (metres).
    """

    block_pose: Float[Array, "... n 7"]
    block_id: Int[Array, "... n"]
    gripper: Float[Array, "... 6"]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes."""
        return self.gripper.shape[:-1]


def check(state: Mapping[str, np.ndarray], need: Need) -> None:
    """Checks for distinct cubes within reach and unit quaternions."""
    ids, pose = state["block_id"], state["block_pose"]
    check_block_ids(ids, need)
    need(pose.shape[1] == len(ids), "cubes", pose.shape[1], len(ids))
    check_reach("cube", pose[..., :3], 2.0, need)
    check_reach("gripper", state["gripper"][:, :3], 2.0, need)
    size = np.linalg.norm(pose[..., 3:], axis=-1)
    unit = (np.abs(size - 1) < 1e-3).all()
    need(unit, "length of a quaternion", size.reshape(-1)[size.argmax()], "1")


def objects(scene: CubeScene) -> tuple[Array, Array]:
    """Coordinates [..., 1 + n, 3] and yaw [..., 1 + n] of the gripper and the cubes."""
    xp = array_namespace(scene.block_pose, scene.gripper)
    pose, gripper = scene.block_pose, scene.gripper[..., None, :]
    w, x, y, z = (pose[..., 3 + i] for i in range(4))
    yaw = xp.arctan2(2 * (w * z + x * y), 1 - 2 * (y**2 + z**2))
    place = xp.concatenate([gripper[..., :3], pose[..., :3]], -2)
    return place, xp.concatenate([gripper[..., 3], yaw], -1)


# Slack of observation bounds for overshoot of servos and soft contacts, in metres.
_SLACK = 0.03
_TOP = geometry.WORKSPACE_HIGH[2] + 0.05  # of the centre of a cube that is held

FORMAT = SceneFormat(
    kind=CubeScene,
    domain="cube",
    state={
        "block_pose": StoredField((None, 7)),
        "gripper": StoredField((6,)),
        "block_id": StoredField((None,), "int32", per_frame=False),
    },
    angles={"gripper": (3,)},
    bounds={
        "block_pose": (
            (*geometry.WALLS_LOW, -_SLACK, *[-1.0 - _SLACK] * 4),
            (*geometry.WALLS_HIGH, _TOP, *[1.0 + _SLACK] * 4),
        ),
        "gripper": (
            (*(x - _SLACK for x in geometry.WORKSPACE_LOW), -np.pi, -_SLACK, -_SLACK),
            (
                *(x + _SLACK for x in geometry.WORKSPACE_HIGH),
                np.pi,
                *[geometry.MAX_GAP + _SLACK] * 2,
            ),
        ),
    },
    check=check,
    objects=objects,
)
