"""MJCF model of the cube world, used by both physics engines and mujoco.Renderer.

A hand on three slides and a yaw hinge has two fingers on slides; every joint has a
position servo, and gravity on the hand is compensated. Cubes are free boxes on a plane,
inside four walls that collide with cubes only. Contacts are between boxes: MuJoCo and
MJX have closed forms for them, and four or more points per face prevent a held cube
from turning without torsional friction.

Joint order: hand x, y, z, yaw, left finger, right finger, then the cubes' free joints.
Fingers move independently: equally stiff servos centre a held cube.

Settings for a stable grasp, found by experiment: elliptic cones with impratio 10 creep
by 5 micrometres per control step. Servos are integrated explicitly (Euler), because
with an implicit integrator the hand moves less than the contact solver assumed, and the
cube slips by the difference (30 mm in four steps at 0.01 s). The Newton solver needs 1
to 4 iterations, and up to 20 at a hard impact: limited to 6 it diverges. MJX has
pyramidal cones: with elliptic ones it diverged in float32 in one grasp of four at any
number of iterations; with pyramidal ones a held cube slips about 3 mm in 5 seconds.
"""

import mujoco
import numpy as np

from swm_jax.worlds.cube import geometry as geometry
from swm_jax.worlds.cube.scene import CUBES

HAND_DOFS = 6
MAX_CUBES = len(CUBES)
HAND_MASS = 2.0  # kg, moved by the slides
HAND_INERTIA = 0.01  # kg m^2 about z
FINGER_MASS = 0.2  # kg each
# Servos are critically damped: (1 + w t) exp(-w t) of a step is left after t seconds.
HAND_RATE = 45.0  # 1/s: 94 % of a step within 0.1 s
FINGER_STIFFNESS = 400.0  # N/m: closed fully, fingers press a cube with 8 N each
HAND_FORCE = (60.0, 60.0, 60.0, 3.0)  # newtons, and newton metres for the yaw
FINGER_FORCE = 10.0
FRICTION = 1.0  # between any two things
# Nearly rigid contacts: penetration stays below 1 mm.
CONTACT = 'solref="0.01 1" solimp="{} 0.001"'
# (impratio, impedances) with which each kind of friction cone holds a cube.
CONES = {"elliptic": (10, "0.95 0.99"), "pyramidal": (1, "0.98 0.995")}
# MJX needs fixed sizes: the nearest pairs of boxes that are tested, and the deepest
# contacts that are solved.
_ASSETS = """
  <visual><headlight ambient="0 0 0" diffuse="0 0 0" specular="0 0 0"/></visual>
  <asset>
    <texture type="skybox" builtin="flat" rgb1="0 0 0" rgb2="0 0 0" width="32"
             height="32"/>
  </asset>"""
MAX_GEOM_PAIRS = 24
MAX_CONTACTS = 48


def cube_mjcf(
    cubes: int = MAX_CUBES,
    physics_dt: float = 0.01,
    iterations: int = 20,
    visuals: bool = True,
    cone: str = "elliptic",
) -> str:
    """MJCF text of the world; `visuals=False` leaves out all that does not collide.

    Args:
      cubes: number of cubes, 1 to 4.
      physics_dt: physics step in seconds.
      iterations: Newton iterations of the contact solver per physics step.
      visuals: whether to add the arm, table, light and sky.
      cone: of the friction, "elliptic" or "pyramidal".
    """
    impratio, impedance = CONES[cone]
    bodies = "".join(_cube_xml(slot) for slot in range(cubes))
    return f"""
<mujoco model="cube">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{physics_dt}" iterations="{iterations}"
          ls_iterations="20" solver="Newton" cone="{cone}" impratio="{impratio}"
          integrator="Euler"/>
  {_ASSETS if visuals else ""}
  <default>
    <geom friction="{FRICTION} 0.005 0.0001" condim="3"
          {CONTACT.format(impedance)}/>
    <default class="visual">
      <geom contype="0" conaffinity="0" group="2" mass="0"/>
    </default>
    <default class="hand">
      <geom type="box" contype="2" conaffinity="0" mass="0"/>
    </default>
    <default class="wall">
      <geom type="plane" size="1 1 0.01" contype="0" conaffinity="1" group="3"
            rgba="0 0 0 0"/>
    </default>
  </default>
  <worldbody>
    {_hand_xml(visuals)}
    {bodies}
    <geom name="floor" class="wall"/>
    {_walls_xml()}
    {_surroundings_xml() if visuals else ""}
  </worldbody>
  <actuator>{_servos_xml()}</actuator>
  <custom>
    <numeric name="max_contact_points" data="{MAX_CONTACTS}"/>
    <numeric name="max_geom_pairs" data="{MAX_GEOM_PAIRS}"/>
  </custom>
</mujoco>"""


def cube_model(**options) -> mujoco.MjModel:
    """Compiles `cube_mjcf(**options)`."""
    return mujoco.MjModel.from_xml_string(cube_mjcf(**options))


def _hand_xml(visuals: bool) -> str:
    joints = "".join(
        f'<joint name="hand_{name}" type="{kind}" axis="{axis}"/>'
        for name, kind, axis in (
            ("x", "slide", "1 0 0"),
            ("y", "slide", "0 1 0"),
            ("z", "slide", "0 0 1"),
            ("yaw", "hinge", "0 0 1"),
        )
    )
    fingers = ""
    for name, sign in (("left", 1), ("right", -1)):
        fingers += f"""
      <body name="{name}" pos="0 {sign * geometry.FINGER_HALF[1]} 0" gravcomp="1">
        <inertial pos="0 0 0" mass="{FINGER_MASS}" diaginertia="1e-4 1e-4 1e-4"/>
        <joint name="{name}" type="slide" axis="0 {sign} 0"
               range="0 {geometry.MAX_GAP}"/>
        <geom name="{name}" class="hand" size="{_numbers(geometry.FINGER_HALF)}"
              pos="0 0 {geometry.FINGER_RAISE}"/>
      </body>"""
    arm = (
        f'<geom name="arm_visual" class="visual" type="box" '
        f'size="{_numbers(geometry.ARM_HALF)}" pos="0 0 {geometry.ARM_RAISE}"/>'
        if visuals
        else ""
    )
    mass = HAND_MASS - 2 * FINGER_MASS
    return f"""
    <body name="hand" gravcomp="1">
      <inertial pos="0 0 0.1" mass="{mass}"
                diaginertia="0.01 0.01 {HAND_INERTIA}"/>
      {joints}
      <geom name="palm" class="hand" size="{_numbers(geometry.PALM_HALF)}"
            pos="0 0 {geometry.PALM_RAISE}"/>
      {fingers}
      {arm}
    </body>"""


def _cube_xml(slot: int) -> str:
    half = geometry.CUBE_HALF
    return f"""
    <body name="cube{slot}" pos="{0.3 + 0.08 * slot} 0 {half}">
      <freejoint name="cube{slot}"/>
      <geom name="cube{slot}" type="box" size="{half} {half} {half}"
            density="{geometry.CUBE_DENSITY}" contype="1" conaffinity="3"/>
    </body>"""


def _walls_xml() -> str:
    (x0, y0), (x1, y1) = geometry.WALLS_LOW, geometry.WALLS_HIGH
    sides = (
        (f"{x0} 0 0", "1 0 0"),
        (f"{x1} 0 0", "-1 0 0"),
        (f"0 {y0} 0", "0 1 0"),
        (f"0 {y1} 0", "0 -1 0"),
    )
    return "".join(
        f'<geom name="wall{i}" class="wall" pos="{pos}" zaxis="{normal}"/>'
        for i, (pos, normal) in enumerate(sides)
    )


def _surroundings_xml() -> str:
    """Table, sun and the camera "front_pixels"; their colours are set by looks."""
    half = geometry.TABLE_HALF
    axes = _numbers((*geometry.CAMERA_RIGHT, *geometry.CAMERA_UP))
    return (
        f'<geom name="table_visual" class="visual" type="box" pos="0 0 -0.005" '
        f'size="{half} {half} 0.005"/>'
        f'<light name="sun" type="directional" castshadow="false" pos="0 0 2" '
        f'dir="0 0 -1" specular="0 0 0"/>'
        f'<camera name="front_pixels" pos="{_numbers(geometry.CAMERA_POSITION)}" '
        f'xyaxes="{axes}" fovy="{geometry.CAMERA_FOVY}"/>'
    )


def _servos_xml() -> str:
    servos = []
    inertia = (HAND_MASS,) * 3 + (HAND_INERTIA,)
    for name, mass, force in zip(("x", "y", "z", "yaw"), inertia, HAND_FORCE):
        gain, damping = mass * HAND_RATE**2, 2 * mass * HAND_RATE
        servos.append((f"hand_{name}", gain, damping, force))
    damping = 2 * np.sqrt(FINGER_STIFFNESS * FINGER_MASS)
    for name in ("left", "right"):
        servos.append((name, FINGER_STIFFNESS, damping, FINGER_FORCE))
    return "".join(
        f'<general name="{name}" joint="{name}" biastype="affine" gainprm="{gain}" '
        f'biasprm="0 {-gain} {-damping}" forcerange="{-force} {force}"/>'
        for name, gain, damping, force in servos
    )


def _numbers(values) -> str:
    return " ".join(map(str, values))
