"""The cube arm as one MJCF model, used by both physics backends and mujoco.Renderer.

A hand on three slides and a yaw hinge carries two finger slides; every joint has a
position servo and the hand is compensated for gravity. Cubes are free boxes on a
plane, inside four walls that only they can touch. Contacts are box against box: MuJoCo
and MJX both have closed forms for them, and four or more points per face hold a cube
against turning without torsional friction.

Joint order: hand x, y, z, yaw, left finger, right finger, then the cubes' free joints.
Fingers move on their own: equally stiff servos pull a held cube to the middle.

What holds a cube, found by experiment: elliptic cones with impratio 10 creep by 5
micrometres per control step, and servos are integrated explicitly (Euler), because an
implicit integrator moves the hand by less than the contact solver believed, and
the cube slips by that difference (30 mm in four steps at 0.01 s). The Newton solver
needs 1 to 4 iterations, but a hard blow up to 20: stopped at 6 it diverges. MJX gets
pyramidal cones instead: with elliptic ones it diverged in float32 at one grasp of four,
however many iterations it had; a held cube then slips about 3 mm in 5 seconds.
"""

import mujoco
import numpy as np

from swm_jax.worlds.cube import geometry as geometry
from swm_jax.worlds.cube.scene import CUBES

HAND_DOFS = 6
MAX_CUBES = len(CUBES)
HAND_MASS = 2.0  # kg, what the slides carry
HAND_INERTIA = 0.01  # kg m^2 about z
FINGER_MASS = 0.2  # kg each
# Servos are critically damped: (1 + w t) exp(-w t) of a step is left after t seconds.
HAND_RATE = 45.0  # 1/s: 94 % of a step within 0.1 s
FINGER_STIFFNESS = 400.0  # N/m: closed fully, fingers press a cube with 8 N each
HAND_FORCE = (60.0, 60.0, 60.0, 3.0)  # newtons, and newton metres for the yaw
FINGER_FORCE = 10.0
FRICTION = 1.0  # between any two things
# Squeezed things stay 1 mm or less inside each other: nearly rigid contacts.
CONTACT = 'solref="0.01 1" solimp="{} 0.001"'
# Friction cones: what they need to hold a cube, as (impratio, impedances).
CONES = {"elliptic": (10, "0.95 0.99"), "pyramidal": (1, "0.98 0.995")}
# MJX has fixed sizes: pairs of boxes it looks at (the nearest) and contacts it solves
# for (the deepest).
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
    """The MJCF text; `visuals=False` leaves out what only a camera would notice.

    Args:
      cubes: how many, 1 to 4.
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
    """Table, sun and the camera "front_pixels"; looks give them their colours."""
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
