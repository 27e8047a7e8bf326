"""Sizes, bounds, colours and camera of the cube world, for physics and renderers.

Workspace, cubes, action scales and the camera `front_pixels` are those of OGBench's
visual-cube tasks. The UR5e is reduced to the parts that touch cubes: a hand that slides
along x, y, z, turns about z, and has two fingers. Axes: x points away from the robot's
base towards the camera, y to the robot's left, z up; the table's top is z = 0.
"""

from swm_jax.envs.scene import array_namespace

WORKSPACE_LOW = (0.25, -0.35, 0.02)  # metres, of the point between the pads
WORKSPACE_HIGH = (0.6, 0.35, 0.35)
START_LOW = (0.25, -0.35, 0.20)  # where that point may be after a reset
START_HIGH = (0.6, 0.35, 0.35)
CUBE_LOW = (0.3, -0.3)  # where cubes may lie after a reset
CUBE_HIGH = (0.55, 0.3)
WALLS_LOW = (0.223, -0.377)  # cubes cannot leave this box
WALLS_HIGH = (0.627, 0.377)

CUBE_HALF = 0.02  # metres
CUBE_DENSITY = 1240.0  # kg / m^3
ACTION_SCALE = (0.05, 0.05, 0.05, 0.3, 1.0)  # x, y, z metres, yaw radians, gripper
MAX_GAP = 0.0425  # metres from the pinch point to an open finger's pad
# A finger is a box; its inner face is the pad. Half sizes along the gripper's x, y, z
# and the height of its centre above the pinch point.
FINGER_HALF = (0.011, 0.005, 0.03)
FINGER_RAISE = 0.016  # the finger spans -0.014 .. 0.046 about the pinch point
PALM_HALF = (0.02, 0.06, 0.015)
PALM_RAISE = 0.061
ARM_HALF = (0.03, 0.03, 0.06)  # what is drawn of the arm
ARM_RAISE = 0.136
TABLE_HALF = 1.0  # metres from the origin to each side of the table that is drawn

CAMERA_POSITION = (1.053, -0.014, 0.639)
CAMERA_RIGHT = (0.0, 1.0, 0.0)
CAMERA_UP = (-0.628, 0.001, 0.778)
CAMERA_FOVY = 45.0  # degrees


def rotation_matrix(quaternion):
    """[..., 3, 3] of unit quaternions [..., 4] (w, x, y, z); numpy or JAX arrays."""
    w, x, y, z = (quaternion[..., i] for i in range(4))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    xp = array_namespace(quaternion)
    return xp.stack([xp.stack(row, -1) for row in rows], -2)


def yaw_matrix(yaw):
    """[..., 3, 3], a turn about z."""
    xp = array_namespace(yaw)
    cos, sin, zero = xp.cos(yaw), xp.sin(yaw), xp.zeros_like(yaw)
    rows = ((cos, -sin, zero), (sin, cos, zero), (zero, zero, zero + 1))
    return xp.stack([xp.stack(row, -1) for row in rows], -2)
