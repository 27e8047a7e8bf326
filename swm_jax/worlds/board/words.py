"""Words of the board: directions, regions, and prompts of the pre-training stage.

Directions and regions are those of the image. The camera is across the board from the
robot and faces it, so "up" in the image is towards the robot (-x) and "right" in the
image is +y (forward x up of the camera, see `geometry`).
Directions count clockwise from up, so the opposite of d is (d + 4) % 8 and the left
and right mirror image of d is (8 - d) % 8. Axis order everywhere: (x, y) in metres.
"""

import numpy as np

from swm_jax.choices import known
from swm_jax.envs.scene import BLOCK_NAMES

REGIONS = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)

_TURN = np.pi / 4 * np.arange(8)
DIRECTION_VECTORS = np.stack([-np.cos(_TURN), np.sin(_TURN)], -1).astype(np.float32)
DIRECTION_TOLERANCE = np.deg2rad([20.0, 30.0] * 4).astype(np.float32)  # radians

# Points 0.06 m inside the board's edges, and the middle: rows x, columns y.
REGION_POINTS = np.array(
    [(x, y) for x in (0.21, 0.375, 0.54) for y in (-0.2448, 0.0, 0.2448)], np.float32
)
REGION_RADII = np.array([0.115] * 4 + [0.1] + [0.115] * 4, np.float32)  # metres


def opposite(direction: int) -> int:
    """Index of the opposite direction."""
    return (direction + 4) % 8


def nearest_direction(vector) -> int:
    """Index of the direction nearest to a vector (x, y)."""
    return int(np.argmax(DIRECTION_VECTORS @ np.asarray(vector, np.float32)))


# Prompts of the pre-training stage; answers are location tokens or names.
OBJECT_NAMES = (*BLOCK_NAMES, "peg")
DESCRIBE = "describe the scene"
NOTHING = "nothing"  # answer for an empty region


def detection_prompt(name: str | int) -> str:
    """ "detect the red moon"; `name` may be an index into `OBJECT_NAMES`."""
    name = name if isinstance(name, str) else OBJECT_NAMES[name]
    return f"detect the {known('object', name, OBJECT_NAMES)}"


def region_prompt(region: str | int) -> str:
    """ "describe the top left of the board"; may be an index into `REGIONS`."""
    name = region if isinstance(region, str) else REGIONS[region]
    return f"describe the {known('region', name, REGIONS)} of the board"


PROMPTS = (
    *map(detection_prompt, OBJECT_NAMES),
    *map(region_prompt, REGIONS),
    DESCRIBE,
    NOTHING,
)
