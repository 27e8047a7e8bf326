"""Sizes, colours and camera of Push-T, for physics and renderers.

Sizes are those of the diffusion-policy paper's environment (`gym_pusht`), with its
pixel taken as a millimetre: a window of 512 pixels, a T of two boxes 120 x 30 and
30 x 90, an agent of radius 15, the goal in the middle at 45 degrees.

Axes here: x right and y up in the picture, z towards the camera, the origin in the
lower left corner; a yaw counts counter-clockwise. With (u, v, angle) as `gym_pusht`
counts them, v down and clockwise: x = u / 1000, y = (512 - v) / 1000, yaw = -angle.
There the T's position is the middle of its bar's long edge, `HANDLE` here; ours is
the centroid.
"""

import numpy as np

SIDE = 0.512  # metres, of the square table
UNIT = 0.03  # metres: the bar is 4 units long, the stem 3, both 1 wide
T_HEIGHT = 0.03
T_MASS = 0.04  # kg
PEG_RADIUS = 0.015
PEG_LENGTH = 0.05
PEG_MARGIN = 0.015  # metres that the peg's centre keeps from the table's edge
# The T's centre keeps this far from the edge: the peg nearly always fits behind it.
T_MARGIN = 0.1
CONTROL_PERIOD = 0.1  # seconds
ACTION_LIMIT = 0.1  # metres per step, the simulator's box
PLANNER_ACTION_LIMIT = 0.03  # metres per step, what data and planners use
# gym_pusht zeroes the T's velocity at every physics step; strong friction is close.
FRICTION = 1.0

# The middle of the bar's long edge, T frame: the centroid of 4 + 3 squares is
# (4 * 0.5 + 3 * 2.5) / 7 units below it.
HANDLE = (0.0, UNIT * 9.5 / 7)
# Centre and half size of bar and stem, T frame.
BOXES = np.array(
    [
        [[0.0, HANDLE[1] - 0.5 * UNIT], [2.0 * UNIT, 0.5 * UNIT]],
        [[0.0, HANDLE[1] - 2.5 * UNIT], [0.5 * UNIT, 1.5 * UNIT]],
    ],
    np.float32,
)
T_AREA = 7 * UNIT**2  # square metres


def _outline() -> np.ndarray:
    left = np.array([[-2.0, 0.0], [-2.0, -1.0], [-0.5, -1.0], [-0.5, -4.0]])
    right = left[::-1] * [-1.0, 1.0]
    return (np.concatenate([left, right]) * UNIT + HANDLE).astype(np.float32)


OUTLINE = _outline()  # counter-clockwise corners, T frame, metres [8, 2]
T_RADIUS = float(np.linalg.norm(OUTLINE, axis=-1).max())


def _pose_at(handle: tuple[float, float], yaw: float) -> tuple[float, float, float]:
    """The pose whose bar's long edge has its middle at `handle`."""
    x, y = HANDLE
    return (
        handle[0] - float(np.cos(yaw) * x - np.sin(yaw) * y),
        handle[1] - float(np.sin(yaw) * x + np.cos(yaw) * y),
        yaw,
    )


# x, y, yaw of the T's goal: u = v = 256 and 45 degrees in gym_pusht.
GOAL_POSE = _pose_at((0.256, 0.256), -np.pi / 4)


def _spread() -> tuple[float, float]:
    """Root mean square and mean distance of the T's area from its centroid."""
    count = 60
    share = (np.arange(count) + 0.5) / count * 2.0 - 1.0
    unit = np.stack(np.meshgrid(share, share), -1).reshape(-1, 2)
    distance = [np.linalg.norm(c + h * unit, axis=-1) for c, h in BOXES]
    weights = [4.0 / 7.0, 3.0 / 7.0]
    square = sum(w * (d**2).mean() for w, d in zip(weights, distance))
    mean = sum(w * d.mean() for w, d in zip(weights, distance))
    return float(np.sqrt(square)), float(mean)


# Radius of gyration, and the lever of dry friction that is spread over the T (metres).
GYRATION, FRICTION_RADIUS = _spread()

PEG_BOX = np.array([[PEG_MARGIN] * 2, [SIDE - PEG_MARGIN] * 2], np.float32)
T_BOX = np.array([[T_MARGIN] * 2, [SIDE - T_MARGIN] * 2], np.float32)

CAMERA_HEIGHT = 1.0  # metres; the camera is orthographic and looks straight down
TABLE_RGB = (1.0, 1.0, 1.0)
BACKGROUND_RGB = (0.8, 0.8, 0.8)
GOAL_RGB = (0.565, 0.933, 0.565)  # light green
T_RGB = (0.467, 0.533, 0.6)  # slate grey
PEG_RGB = (0.255, 0.412, 0.882)  # royal blue
