"""Sizes, outlines, colours and camera of the board, for physics and renderers.

Figures are Language-Table's: footprints cube 0.0397 x 0.0397 m, moon 0.0525 x
0.0257, star 0.0444 x 0.0408, pentagon 0.0444 x 0.0413, all 0.0381 m high. Axes: x
points away from the robot towards the camera, y to the right of the robot, z up;
the board's top is z = 0.
"""

import numpy as np

X_BOUNDS = (0.15, 0.6)  # metres
Y_BOUNDS = (-0.3048, 0.3048)
# Where the peg may stand: low corner, then high corner.
PEG_BOX = np.array([X_BOUNDS, Y_BOUNDS], np.float32).T
BLOCK_HEIGHT = 0.0381
PEG_RADIUS = 0.0127
PEG_LENGTH = 0.135
PEG_BOTTOM = 0.005  # metres above the board; the peg spans 0.005 .. 0.14
BOARD_MARGIN = 0.04  # metres by which the visible board exceeds the bounds
BLOCK_MASS = 0.01  # kg
FRICTION = 0.5
CONTROL_PERIOD = 0.1  # seconds
ACTION_LIMIT = 0.1  # metres per step, the simulator's box
PLANNER_ACTION_LIMIT = 0.03  # metres per step, the planner's clamp

CAMERA_POSITION = (0.75, 0.0, 0.5)
CAMERA_FORWARD = (-0.588, 0.0, -0.809)
CAMERA_UP = (-0.809, 0.0, 0.588)
CAMERA_FOVY = 38.6  # degrees, vertical
CAMERA_ASPECT = 320 / 180  # width / height of the field of view

BLOCK_RGB = {
    "red": (1.0, 0.4, 0.4),
    "blue": (0.4, 0.4, 1.0),
    "green": (0.4, 1.0, 0.4),
    "yellow": (1.0, 1.0, 0.4),
    "purple": (0.7, 0.4, 1.0),
}
BOARD_RGB = (0.2, 0.2, 0.2)
PEG_RGB = (0.6, 0.6, 0.6)
BACKGROUND_RGB = (0.85, 0.85, 0.85)


def _fit(points: np.ndarray, width: float, depth: float) -> np.ndarray:
    """Centres an outline on its area centroid and scales it to its footprint."""
    points = points * (np.array([width, depth]) / np.ptp(points, axis=0))
    x, y = points.T
    nx, ny = np.roll(x, -1), np.roll(y, -1)
    cross = x * ny - nx * y
    centroid = np.stack([((x + nx) * cross).sum(), ((y + ny) * cross).sum()])
    return points - centroid / (3.0 * cross.sum())


def _ring(count: int, radii: tuple[float, ...], start: float) -> np.ndarray:
    angles = start + 2.0 * np.pi * np.arange(count) / count
    return np.resize(radii, count)[:, None] * np.stack(
        [np.cos(angles), np.sin(angles)], -1
    )


def _moon() -> np.ndarray:
    outer = np.pi * np.linspace(0.0, 1.0, 9)
    inner = np.pi * np.linspace(1.0, 0.0, 7)[1:-1]
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], -1),
            np.stack([0.92 * np.cos(inner), 0.42 * np.sin(inner)], -1),
        ]
    )


# Counter-clockwise outlines in metres, block frame, area centroid at the origin.
OUTLINES: dict[str, np.ndarray] = {
    "moon": _fit(_moon(), 0.0525, 0.0257),
    "pentagon": _fit(_ring(5, (1.0,), np.pi / 2), 0.0444, 0.0413),
    "cube": _fit(_ring(4, (1.0,), np.pi / 4), 0.0397, 0.0397),
    "star": _fit(_ring(10, (1.0, 0.45), np.pi / 2), 0.0444, 0.0408),
}
