"""MJCF model of Push-T, used by both physics engines and by mujoco.Renderer.

The T moves on planar joints (two slides and a hinge), the peg on two slides with a
position servo. The T collides as two boxes, the peg as a sphere at half their height,
so that all contacts act in the plane. Contacts have no friction: the turn of the T
depends on the point of contact alone. The visible shapes (`bar_visual`, `stem_visual`,
`peg_visual`, `goal_bar`, `goal_stem`, `table_visual`) do not collide.

Joint order: x, y, yaw of the T, then peg x, y. There is no gravity; the table's
friction acts after every physics step (`envs/pushing.py`).
"""

import numpy as np

from swm_jax.envs.pushing_model import (
    Peg,
    inertial,
    paint,
    planar_joints,
    pushing_mjcf,
)
from swm_jax.worlds.pusht import geometry

# Half height of the collision boxes: tall, so that the sphere's nearest face is a side.
_HALF_HEIGHT = 0.05
_GOAL_HEIGHT = 0.001  # metres; a sheet on the table


def pusht_mjcf(
    physics_dt: float = 0.01, iterations: int = 4, visuals: bool = True
) -> str:
    """MJCF text of Push-T; `visuals=False` leaves out all that does not collide.

    Args:
      physics_dt: physics step in seconds; must divide the control period.
      iterations: Newton iterations of the contact solver per physics step.
      visuals: whether to add visible shapes, light and sky.
    """
    middle = geometry.T_HEIGHT / 2
    boxes = tuple(zip(("bar", "stem"), geometry.BOXES))
    shapes = "".join(
        _box(name, 'class="collision"', box, middle, _HALF_HEIGHT)
        for name, box in boxes
    )
    if visuals:
        shapes += "".join(
            _box(f"{name}_visual", paint(geometry.T_RGB), box, middle, middle)
            for name, box in boxes
        )
    turn = geometry.T_MASS * geometry.GYRATION**2
    body = (
        f'<body name="T">{inertial(geometry.T_MASS, turn, geometry.T_HEIGHT)}'
        f"{planar_joints('T', *geometry.T_BOX)}{shapes}</body>"
    )
    return pushing_mjcf(
        "pusht",
        Peg(geometry.PEG_RADIUS, geometry.PEG_LENGTH, geometry.PEG_RGB),
        body,
        height=middle,
        period=geometry.CONTROL_PERIOD,
        physics_dt=physics_dt,
        iterations=iterations,
        visuals=_surroundings() if visuals else None,
        background=geometry.BACKGROUND_RGB,
    )


def _box(name: str, look: str, box: np.ndarray, z: float, half_height: float) -> str:
    (x, y), (half_x, half_y) = box
    return (
        f'<geom name="{name}" type="box" {look} pos="{x} {y} {z}" '
        f'size="{half_x} {half_y} {half_height}"/>'
    )


def _surroundings() -> str:
    """Table, the goal as a sheet on it, and the camera "top"."""
    half, (x, y, yaw) = geometry.SIDE / 2, geometry.GOAL_POSE
    sheet = "".join(
        _box(f"goal_{name}", paint(geometry.GOAL_RGB), box, 0.0, _GOAL_HEIGHT)
        for name, box in zip(("bar", "stem"), geometry.BOXES)
    )
    return (
        f'<geom name="table_visual" type="box" {paint(geometry.TABLE_RGB)} '
        f'pos="{half} {half} -0.005" size="{half} {half} 0.005"/>'
        f'<body name="goal" pos="{x} {y} 0" euler="0 0 {yaw}">{sheet}</body>'
        f'<camera name="top" projection="orthographic" fovy="{geometry.SIDE}" '
        f'pos="{half} {half} {geometry.CAMERA_HEIGHT}" xyaxes="1 0 0 0 1 0"/>'
    )
