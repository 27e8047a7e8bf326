"""Distances between fingers and cubes, surface to surface.

For numpy and JAX arrays with any leading axes; poses as in `CubeScene`.
"""

import numpy as np

from swm_jax.envs.scene import array_namespace
from swm_jax.worlds.cube import geometry as geometry

_HALF = (geometry.CUBE_HALF,) * 3


def finger_gaps(gripper, cube):
    """[..., 2], metres from the left and the right finger to a cube."""
    centre, turn = finger_boxes(gripper)
    rotation = geometry.rotation_matrix(cube[..., 3:])
    return box_gap(
        centre,
        turn[..., None, :, :],
        geometry.FINGER_HALF,
        cube[..., None, :3],
        rotation[..., None, :, :],
        _HALF,
    )


def cube_gap(a, b):
    """Metres between the surfaces of two cubes [..., 7]."""
    turn_a, turn_b = (geometry.rotation_matrix(x[..., 3:]) for x in (a, b))
    return box_gap(a[..., :3], turn_a, _HALF, b[..., :3], turn_b, _HALF)


def box_gap(centre_a, rotation_a, half_a, centre_b, rotation_b, half_b):
    """Metres between two boxes in any orientation; negative if they overlap.

    The largest separation along the 15 axes of the separating axis theorem. Its sign is
    exact, and its size too where a face is nearest; between two corners it is a lower
    bound of the distance.

    Args:
      centre_a, centre_b: [..., 3].
      rotation_a, rotation_b: [..., 3, 3], columns are the box's axes.
      half_a, half_b: three half sizes.
    """
    xp = array_namespace(centre_a, rotation_a, centre_b, rotation_b)
    half_a, half_b = (xp.asarray(np.array(h, np.float32)) for h in (half_a, half_b))
    # Sums of products instead of einsum, which TPUs compute in bfloat16.
    dot = lambda u, v: (u * v).sum(-1)
    columns = lambda r: xp.swapaxes(r, -1, -2)  # [..., axis, 3]
    a, b = xp.broadcast_arrays(columns(rotation_a), columns(rotation_b))
    way = centre_b - centre_a  # may have more leading axes than the rotations
    axes = [a[..., i, :] for i in range(3)] + [b[..., i, :] for i in range(3)]
    for i in range(3):
        for j in range(3):
            axes.append(xp.cross(a[..., i, :], b[..., j, :]))
    axes = xp.stack(axes, -2)  # [..., 15, 3]
    length = xp.sqrt(xp.maximum(dot(axes, axes), 1e-12))
    reach = (xp.abs(dot(axes[..., None, :], a[..., None, :, :])) * half_a).sum(-1)
    reach = reach + (xp.abs(dot(axes[..., None, :], b[..., None, :, :])) * half_b).sum(
        -1
    )
    apart = (xp.abs(dot(axes, way[..., None, :])) - reach) / length
    # Cross products of parallel edges vanish and give no axis.
    return xp.where(length > 1e-3, apart, -xp.inf).max(-1)


def finger_boxes(gripper):
    """Centres [..., 2, 3] of the left and right finger, and rotations [..., 3, 3].

    Args:
      gripper: [..., 6], as `CubeScene.gripper`.
    """
    xp = array_namespace(gripper)
    turn = geometry.yaw_matrix(gripper[..., 3])
    offset = xp.stack(
        [
            gripper[..., 4] + geometry.FINGER_HALF[1],
            -gripper[..., 5] - geometry.FINGER_HALF[1],
        ],
        -1,
    )
    across = turn[..., None, :, 1] * offset[..., None]
    up = xp.asarray(np.array([0.0, 0.0, geometry.FINGER_RAISE], np.float32))
    return gripper[..., None, :3] + across + up, turn
