"""MJCF of worlds in which a peg pushes objects on a table.

Objects have planar joints (two slides and a hinge), the peg has two slides with a
position servo. All contacts act in the plane and are frictionless. Visible geoms have
the class "visual" and do not collide. There is no gravity: the table's friction is
applied to the velocities after every physics step (`envs/pushing.py`).
"""

import dataclasses
from collections.abc import Sequence

from swm_jax.envs.ray_caster import Look
from swm_jax.envs.scene import Triple

PEG_MASS = 0.2  # kg, with the arm that carries it
PEG_FORCE = 10.0  # newtons, limit of the servo
PEG_COVERAGE = 0.91  # of a step within one control period, from rest
_LIMIT = 'solreflimit="0.02 1" solimplimit="0.95 0.998 0.001"'


@dataclasses.dataclass(frozen=True)
class Peg:
    """Pusher: a sphere in the physics, rendered as an upright cylinder.

    Attributes:
      radius, length, bottom: metres; bottom is the gap between cylinder and table.
      rgb: colour.
    """

    radius: float
    length: float
    rgb: Triple
    bottom: float = 0.0


def pushing_mjcf(
    name: str,
    peg: Peg,
    bodies: str,
    *,
    height: float,
    period: float,
    physics_dt: float,
    iterations: int,
    always: str = "",
    visuals: str | None = None,
    background: Triple = (0.0, 0.0, 0.0),
    meshes: str = "",
) -> str:
    """MJCF text of a pushing world.

    Args:
      name: of the model.
      peg: the pusher.
      bodies: MJCF of the pushed objects, whose joints come before the peg's.
      height: metres above the table in which contacts act.
      period: seconds of a control step.
      physics_dt: seconds of a physics step; must divide the period.
      iterations: Newton iterations of the contact solver per physics step.
      always: further elements of the model, with and without visuals.
      visuals: elements for rendering only; None omits the visible peg, light and sky.
      background: colour of the sky.
      meshes: further assets of the visuals.
    """
    gain, damping = servo_gains(physics_dt, round(period / physics_dt), PEG_COVERAGE)
    servos = "".join(
        f'<general name="peg_{axis}" joint="peg_{axis}" biastype="affine" '
        f'gainprm="{PEG_MASS * gain}" '
        f'biasprm="0 {-PEG_MASS * gain} {-PEG_MASS * damping}" '
        f'forcelimited="true" forcerange="{-PEG_FORCE} {PEG_FORCE}"/>'
        for axis in "xy"
    )
    seen = visuals is not None
    half = peg.length / 2
    peg_seen = (
        f'<geom name="peg_visual" type="cylinder" {paint(peg.rgb)} '
        f'size="{peg.radius} {half}" pos="0 0 {peg.bottom + half}"/>'
    )
    return f"""
<mujoco model="{name}">
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
  {_assets(background, meshes) if seen else ""}
  <worldbody>
    {_sun() + visuals if visuals is not None else ""}
    {bodies}
    <body name="peg">
      <inertial pos="0 0 {height}" mass="{PEG_MASS}" diaginertia="1e-3 1e-3 1e-3"/>
      <joint name="peg_x" type="slide" axis="1 0 0"/>
      <joint name="peg_y" type="slide" axis="0 1 0"/>
      <geom name="peg" class="collision" type="sphere" pos="0 0 {height}"
            size="{peg.radius}"/>
      {peg_seen if seen else ""}
    </body>
  </worldbody>
  <actuator>{servos}</actuator>
  {always}
</mujoco>"""


def planar_joints(
    name: str, low: Sequence[float], high: Sequence[float], turning: str = ""
) -> str:
    """Joints x, y, yaw of an object with its centre between two corners, metres."""
    slides = "".join(
        f'<joint name="{name}_{axis}" type="slide" axis="{way}" '
        f'range="{least} {most}" {_LIMIT}/>'
        for axis, way, least, most in zip("xy", ("1 0 0", "0 1 0"), low, high)
    )
    return f'{slides}<joint name="{name}_yaw" type="hinge" axis="0 0 1" {turning}/>'


def inertial(mass: float, yaw_inertia: float, height: float) -> str:
    """Mass and inertia of an upright prism whose middle is at half its height."""
    side = yaw_inertia / 2 + mass * height**2 / 12
    return (
        f'<inertial pos="0 0 {height / 2}" mass="{mass}" '
        f'diaginertia="{side} {side} {yaw_inertia}"/>'
    )


def paint(rgb: Triple) -> str:
    """Attributes of a visible geom without collisions."""
    return f'class="visual" rgba="{" ".join(map(str, (*rgb, 1.0)))}"'


def _assets(background: Triple, meshes: str) -> str:
    sky = " ".join(map(str, background))
    return (
        f'<asset><texture type="skybox" builtin="flat" rgb1="{sky}" rgb2="{sky}" '
        f'width="32" height="32"/>{meshes}</asset>'
    )


def _sun() -> str:
    """The light of the default look."""
    numbers = lambda values: " ".join(map(str, values))
    look = Look()
    return (
        f'<light name="sun" type="directional" castshadow="false" pos="0 0 2" '
        f'dir="{numbers(look.light_direction)}" ambient="{numbers(look.ambient_rgb)}" '
        f'diffuse="{numbers(look.diffuse_rgb)}" specular="0 0 0"/>'
    )


def servo_gains(physics_dt: float, steps: int, coverage: float) -> tuple[float, float]:
    """Gains per unit mass of a position servo, critically damped in discrete time.

    With a double pole p the remaining distance after n steps from rest is
    (1 + n (1 - p)) p^n; p is the root at which this is 1 - coverage.

    Args:
      physics_dt: seconds.
      steps: physics steps per control step.
      coverage: share of a step that is covered within one control step.

    Returns:
      Stiffness in 1/s^2 and damping in 1/s.
    """
    low, high, pole = 0.0, 1.0, 0.5  # bisection: the distance grows with the pole
    for _ in range(60):
        pole = 0.5 * (low + high)
        left = (1.0 + steps * (1.0 - pole)) * pole**steps
        low, high = (pole, high) if left < 1.0 - coverage else (low, pole)
    return ((1.0 - pole) / physics_dt) ** 2, (1.0 - pole**2) / physics_dt
