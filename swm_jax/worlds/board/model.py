"""MJCF model of the board, used by both physics engines and by mujoco.Renderer.

Eight blocks move on planar joints (two slides and a hinge), the peg on two slides
with a position servo. The collision geometry of a block is a cluster of horizontal
capsules at half its height: all contacts then act in the plane, sides are flat, and
MuJoCo and MJX have closed forms for contacts of capsules and spheres. The visible
prisms (`block{slot}_visual`, `peg_visual`, `board_visual`) do not collide.
Mean distance between a cluster's rim and the outline it approximates: cube 0.2 mm,
pentagon 0.1 mm, star and moon 0.7 mm; at most 2.1 mm (rounded corners).

Joint order: x, y, yaw of slots 0..7, then peg x, y. There is no gravity and no joint
friction: the table's friction is a projection of the velocities after every step
(`envs/pushing.py`), which couples sliding and spinning as real dry friction does.
"""

import numpy as np
from jaxtyping import Float

from swm_jax.envs.pushing_model import (
    Peg,
    inertial,
    paint,
    planar_joints,
    pushing_mjcf,
)
from swm_jax.envs.scene import BLOCK_NAMES
from swm_jax.worlds.board import geometry
from swm_jax.worlds.board.scene import BLOCK_SETS, SLOT_SHAPES

NUM_BLOCKS = len(SLOT_SHAPES)
BLOCK_DOFS = 3 * NUM_BLOCKS
# Walls for the blocks are this far inside the board, so that the peg fits behind them.
WALL_INSET = 0.04  # metres
# Centres of blocks stay in this box, low corner then high corner.
BLOCK_BOUNDS = (
    (geometry.X_BOUNDS[0] + WALL_INSET, geometry.Y_BOUNDS[0] + WALL_INSET),
    (geometry.X_BOUNDS[1] - WALL_INSET, geometry.Y_BOUNDS[1] - WALL_INSET),
)
# Added inertia (blocks have 1.4 to 2.6e-6): without contact friction a pushed block
# turns away too easily; this brings turns close to Language-Table's.
TURN_INERTIA = 1e-6  # kg m^2
FRICTION_RADIUS = 0.0135  # metres, weighs spin against slide in the table's friction
# MJX needs fixed sizes: the nearest pairs of geoms that are tested, and the deepest
# contacts that are solved. Fast random pushing had 7 contacts at most.
MAX_GEOM_PAIRS = 48
MAX_CONTACTS = 16

Capsule = tuple[float, float, float, float, float]  # x0, y0, x1, y1, radius


def block_radius(shape: str) -> float:
    """Radius in metres of a block's circumscribed circle about its centre."""
    return float(np.linalg.norm(geometry.OUTLINES[shape], axis=-1).max())


def collision_capsules(shape: str) -> tuple[Capsule, ...]:
    """Horizontal capsules that approximate a block's outline, in metres in its frame.

    Cube and pentagon: one capsule along each side, and a core, so that a hard push
    against a wall cannot force the peg between the sides. Moon and star: end points and
    radii fitted to the outline by least squares on the signed distance. A capsule of
    length 0 is a sphere.
    """
    outline = geometry.OUTLINES[shape]
    if shape in ("cube", "pentagon"):
        corners = _inset(outline, 0.005)
        ends = zip(corners, np.roll(corners, -1, axis=0))
        sides = [(x0, y0, x1, y1, 0.005) for (x0, y0), (x1, y1) in ends]
        return (*sides, (0.0, 0.0, 0.0, 0.0, _inner_radius(outline) - 0.003))
    if shape == "star":
        tips = [(0.0, 0.0, 0.81 * x, 0.81 * y, 0.003) for x, y in outline[::2]]
        return (*tips, (0.0, 0.0, 0.0, 0.0, 0.0117))
    half = (
        (0.02469, -0.01131, 0.01522, -0.0003, 0.00244),
        (0.01522, -0.0003, 0.0, 0.00438, 0.00643),
    )
    mirrored = tuple((-x0, y0, -x1, y1, r) for x0, y0, x1, y1, r in half)
    return half + mirrored


def outline_triangles(outline: Float[np.ndarray, "n 2"]) -> list[tuple[int, int, int]]:
    """Triangulation of a counter-clockwise outline by ear clipping, as indices."""
    left = list(range(len(outline)))
    triangles = []
    while len(left) > 3:
        ear = next(i for i in range(len(left)) if _is_ear(outline, left, i))
        triangles.append((left[ear - 1], left[ear], left[(ear + 1) % len(left)]))
        del left[ear]
    return [*triangles, (left[0], left[1], left[2])]


def board_mjcf(
    block_set: str = "standard",
    physics_dt: float = 0.01,
    iterations: int = 4,
    visuals: bool = True,
) -> str:
    """MJCF text of the board; `visuals=False` leaves out all that does not collide.

    Args:
      block_set: a key of `BLOCK_SETS`; determines the colours only.
      physics_dt: physics step in seconds; must divide the control period.
      iterations: Newton iterations of the contact solver per physics step.
      visuals: whether to add prisms, board, light and sky.
    """
    bodies = "".join(
        _block_xml(slot, BLOCK_NAMES[BLOCK_SETS[block_set][slot]], visuals)
        for slot in range(NUM_BLOCKS)
    )
    return pushing_mjcf(
        "board",
        Peg(
            geometry.PEG_RADIUS,
            geometry.PEG_LENGTH,
            geometry.PEG_RGB,
            geometry.PEG_BOTTOM,
        ),
        _camera_xml() + bodies,
        height=geometry.BLOCK_HEIGHT / 2,
        period=geometry.CONTROL_PERIOD,
        physics_dt=physics_dt,
        iterations=iterations,
        always=f"""<custom>
    <numeric name="max_contact_points" data="{MAX_CONTACTS}"/>
    <numeric name="max_geom_pairs" data="{MAX_GEOM_PAIRS}"/>
  </custom>""",
        visuals=_ground_xml() if visuals else None,
        background=geometry.BACKGROUND_RGB,
        meshes=_meshes_xml() if visuals else "",
    )


def _block_xml(slot: int, name: str, visuals: bool) -> str:
    colour, shape = name.split()
    height = geometry.BLOCK_HEIGHT / 2
    geoms = []
    for i, (x0, y0, x1, y1, radius) in enumerate(collision_capsules(shape)):
        label = f'name="block{slot}_{i}" class="collision"'
        if (x0, y0) == (x1, y1):
            geoms.append(
                f'<geom {label} type="sphere" pos="{x0} {y0} {height}" '
                f'size="{radius}"/>'
            )
        else:
            geoms.append(
                f'<geom {label} type="capsule" size="{radius}" '
                f'fromto="{x0} {y0} {height} {x1} {y1} {height}"/>'
            )
    if visuals:
        geoms.append(
            f'<geom name="block{slot}_visual" type="mesh" mesh="{shape}" '
            f"{paint(geometry.BLOCK_RGB[colour])}/>"
        )
    yaw_inertia = geometry.BLOCK_MASS * _gyration_squared(geometry.OUTLINES[shape])
    turning = f'armature="{TURN_INERTIA}"'
    return f"""
    <body name="block{slot}">
      {inertial(geometry.BLOCK_MASS, yaw_inertia, geometry.BLOCK_HEIGHT)}
      {planar_joints(f"block{slot}", *BLOCK_BOUNDS, turning)}
      {" ".join(geoms)}
    </body>"""


def _meshes_xml() -> str:
    meshes = []
    for shape, outline in geometry.OUTLINES.items():
        count = len(outline)
        vertices = [(x, y, 0.0) for x, y in outline]
        vertices += [(x, y, geometry.BLOCK_HEIGHT) for x, y in outline]
        faces = []
        for a, b, c in outline_triangles(outline):
            faces += [(c, b, a), (a + count, b + count, c + count)]
        for a in range(count):
            b = (a + 1) % count
            faces += [(a, b, b + count), (a, b + count, a + count)]
        numbers = lambda rows: " ".join(str(n) for row in rows for n in row)
        meshes.append(
            f'<mesh name="{shape}" vertex="{numbers(vertices)}" '
            f'face="{numbers(faces)}" inertia="exact"/>'
        )
    return "".join(meshes)


def _ground_xml() -> str:
    (x0, x1), (y0, y1) = geometry.X_BOUNDS, geometry.Y_BOUNDS
    margin = geometry.BOARD_MARGIN
    return (
        f'<geom name="board_visual" type="box" {paint(geometry.BOARD_RGB)} '
        f'pos="{(x0 + x1) / 2} {(y0 + y1) / 2} -0.005" '
        f'size="{(x1 - x0) / 2 + margin} {(y1 - y0) / 2 + margin} 0.005"/>'
    )


def _camera_xml() -> str:
    """The camera "front": its 16:9 view fills an image of any aspect ratio."""
    right = np.cross(geometry.CAMERA_FORWARD, geometry.CAMERA_UP)
    axes = " ".join(map(str, (*right, *geometry.CAMERA_UP)))
    position = " ".join(map(str, geometry.CAMERA_POSITION))
    width, height = 0.01 * geometry.CAMERA_ASPECT, 0.01
    focal = 0.5 * height / np.tan(np.radians(geometry.CAMERA_FOVY) / 2)
    return (
        f'<camera name="front" pos="{position}" xyaxes="{axes}" '
        f'sensorsize="{width} {height}" focal="{focal} {focal}" '
        f'resolution="320 180"/>'
    )


def _inset(outline: np.ndarray, distance: float) -> np.ndarray:
    """Corners of a convex outline with every side moved inwards."""
    side = np.roll(outline, -1, axis=0) - outline
    side = side / np.linalg.norm(side, axis=-1, keepdims=True)
    inward = np.stack([-side[:, 1], side[:, 0]], -1)
    before = np.roll(inward, 1, axis=0)
    cosine = (inward * before).sum(-1, keepdims=True)
    return outline + distance * (inward + before) / (1.0 + cosine)


def _inner_radius(outline: np.ndarray) -> float:
    """Distance from the centre to the nearest side of a convex outline."""
    side = np.roll(outline, -1, axis=0) - outline
    cross = outline[:, 0] * side[:, 1] - outline[:, 1] * side[:, 0]
    return float((cross / np.linalg.norm(side, axis=-1)).min())


def _gyration_squared(outline: np.ndarray) -> float:
    """Squared radius of gyration of a plate about its centroid, in square metres."""
    a, b = outline, np.roll(outline, -1, axis=0)
    cross = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    second = (a * a + a * b + b * b).sum(-1)
    return float((cross * second).sum() / (6.0 * cross.sum()))


def _is_ear(outline: np.ndarray, left: list[int], i: int) -> bool:
    a, b, c = (outline[left[j % len(left)]] for j in (i - 1, i, i + 1))
    turn = lambda p, q, r: (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])
    if turn(a, b, c) <= 0.0:
        return False
    around = {left[j % len(left)] for j in (i - 1, i, i + 1)}
    rest = [outline[j] for j in left if j not in around]
    inside = lambda p: min(turn(a, b, p), turn(b, c, p), turn(c, a, p)) >= 0.0
    return not any(inside(p) for p in rest)
