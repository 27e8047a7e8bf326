"""Push-T as one MJCF model, used by both physics engines and by mujoco.Renderer.

The T moves on planar joints (two slides and a hinge), the peg on two slides with a
position servo. The T collides as its two boxes, the peg as a sphere at half their
height, so that all contacts act in the plane. Contacts have no friction: what turns
the T is where it is pushed. The shapes one sees (`bar_visual`, `stem_visual`,
`peg_visual`, `goal_bar`, `goal_stem`, `table_visual`) touch nothing.

Joint order: x, y, yaw of the T, then peg x, y. There is no gravity; the table's
friction acts after every physics step (`envs/pushing.py`).
"""

import mujoco
import numpy as np

from swm_jax.envs.pushing import servo_gains
from swm_jax.worlds.pusht import geometry

PEG_MASS = 0.2  # kg, with the arm that carries it
PEG_FORCE = 10.0  # newtons, limit of the servo
PEG_COVERAGE = 0.91  # of a step within one control period, from rest
# Half height of the boxes that collide: tall, so that sides are nearer than top faces.
_HALF_HEIGHT = 0.05
_GOAL_HEIGHT = 0.001  # metres; a sheet on the table


def pusht_mjcf(
    physics_dt: float = 0.01, iterations: int = 4, visuals: bool = True
) -> str:
    """The MJCF text; `visuals=False` leaves out what only a camera would notice.

    Args:
      physics_dt: physics step in seconds; must divide the control period.
      iterations: Newton iterations of the contact solver per physics step.
      visuals: whether to add what is seen, the light and the sky.
    """
    steps = round(geometry.CONTROL_PERIOD / physics_dt)
    stiffness, damping = servo_gains(physics_dt, steps, PEG_COVERAGE)
    middle = geometry.T_HEIGHT / 2
    (low_x, low_y), (high_x, high_y) = geometry.T_BOX
    limit = 'solreflimit="0.02 1" solimplimit="0.95 0.998 0.001"'
    turn = geometry.T_MASS * geometry.GYRATION**2
    side = turn / 2 + geometry.T_MASS * geometry.T_HEIGHT**2 / 12
    solid = "".join(
        _box(name, 'class="collision"', box, middle, _HALF_HEIGHT)
        for name, box in zip(("bar", "stem"), geometry.BOXES)
    )
    seen = "".join(
        _box(f"{name}_visual", _paint(geometry.T_RGB), box, middle, middle)
        for name, box in zip(("bar", "stem"), geometry.BOXES)
    )
    peg_seen = (
        f'<geom name="peg_visual" type="cylinder" {_paint(geometry.PEG_RGB)} '
        f'size="{geometry.PEG_RADIUS} {geometry.PEG_LENGTH / 2}" '
        f'pos="0 0 {geometry.PEG_LENGTH / 2}"/>'
    )
    servos = "".join(
        f'<general name="peg_{axis}" joint="peg_{axis}" biastype="affine" '
        f'gainprm="{PEG_MASS * stiffness}" '
        f'biasprm="0 {-PEG_MASS * stiffness} {-PEG_MASS * damping}" '
        f'forcelimited="true" forcerange="{-PEG_FORCE} {PEG_FORCE}"/>'
        for axis in "xy"
    )
    return f"""
<mujoco model="pusht">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{physics_dt}" gravity="0 0 0" integrator="Euler" solver="Newton"
          iterations="{iterations}" ls_iterations="8" tolerance="1e-8">
    <flag eulerdamp="disable" warmstart="disable"/>
  </option>
  <visual>
    <global offwidth="1280" offheight="1280"/>
    <headlight active="0"/>
    <quality shadowsize="0" offsamples="0"/>
  </visual>
  <default>
    <default class="collision">
      <geom contype="1" conaffinity="1" condim="1" group="3" mass="0"
            solref="0.02 1" solimp="0.95 0.998 0.001" rgba="1 0 1 0.4"/>
    </default>
    <default class="visual">
      <geom contype="0" conaffinity="0" group="0" mass="0"/>
    </default>
  </default>
  {_sky() if visuals else ""}
  <worldbody>
    {_surroundings() if visuals else ""}
    <body name="T">
      <inertial pos="0 0 {middle}" mass="{geometry.T_MASS}"
                diaginertia="{side} {side} {turn}"/>
      <joint name="T_x" type="slide" axis="1 0 0" range="{low_x} {high_x}" {limit}/>
      <joint name="T_y" type="slide" axis="0 1 0" range="{low_y} {high_y}" {limit}/>
      <joint name="T_yaw" type="hinge" axis="0 0 1"/>
      {solid}
      {seen if visuals else ""}
    </body>
    <body name="peg">
      <inertial pos="0 0 {middle}" mass="{PEG_MASS}" diaginertia="1e-3 1e-3 1e-3"/>
      <joint name="peg_x" type="slide" axis="1 0 0"/>
      <joint name="peg_y" type="slide" axis="0 1 0"/>
      <geom name="peg" class="collision" type="sphere" pos="0 0 {middle}"
            size="{geometry.PEG_RADIUS}"/>
      {peg_seen if visuals else ""}
    </body>
  </worldbody>
  <actuator>{servos}</actuator>
</mujoco>"""


def pusht_model(**options) -> mujoco.MjModel:
    """Compiles `pusht_mjcf(**options)`."""
    return mujoco.MjModel.from_xml_string(pusht_mjcf(**options))


def _box(name: str, look: str, box: np.ndarray, z: float, half_height: float) -> str:
    (x, y), (half_x, half_y) = box
    return (
        f'<geom name="{name}" type="box" {look} pos="{x} {y} {z}" '
        f'size="{half_x} {half_y} {half_height}"/>'
    )


def _paint(rgb: tuple[float, float, float]) -> str:
    return f'class="visual" rgba="{" ".join(map(str, (*rgb, 1.0)))}"'


def _sky() -> str:
    sky = " ".join(map(str, geometry.BACKGROUND_RGB))
    return (
        f'<asset><texture type="skybox" builtin="flat" rgb1="{sky}" rgb2="{sky}" '
        f'width="32" height="32"/></asset>'
    )


def _surroundings() -> str:
    """Light, table, the goal as a sheet on it, and the camera "top"."""
    half, (x, y, yaw) = geometry.SIDE / 2, geometry.GOAL_POSE
    triple = lambda value: f"{value} {value} {value}"
    sheet = "".join(
        _box(f"goal_{name}", _paint(geometry.GOAL_RGB), box, 0.0, _GOAL_HEIGHT)
        for name, box in zip(("bar", "stem"), geometry.BOXES)
    )
    return (
        f'<light name="sun" type="directional" castshadow="false" pos="0 0 2" '
        f'dir="{" ".join(map(str, geometry.LIGHT_DIRECTION))}" '
        f'ambient="{triple(geometry.LIGHT_AMBIENT)}" '
        f'diffuse="{triple(geometry.LIGHT_DIFFUSE)}" specular="0 0 0"/>'
        f'<geom name="table_visual" type="box" {_paint(geometry.TABLE_RGB)} '
        f'pos="{half} {half} -0.005" size="{half} {half} 0.005"/>'
        f'<body name="goal" pos="{x} {y} 0" euler="0 0 {yaw}">{sheet}</body>'
        f'<camera name="top" projection="orthographic" fovy="{geometry.SIDE}" '
        f'pos="{half} {half} {geometry.CAMERA_HEIGHT}" xyaxes="1 0 0 0 1 0"/>'
    )
