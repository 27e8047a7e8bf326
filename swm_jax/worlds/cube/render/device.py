"""Ray caster for cube scenes in pure JAX: rays against oriented boxes.

`render` returns images, `segment` a label per pixel, `project` image positions of
points. `host.py` has the same functions with MuJoCo's renderer. The vertical field of
view is the camera's 45 degrees; a wider image shows more at the sides.

All moving objects are boxes: cubes, fingers, palm and the arm above it. Cubes and table
are solid. The arm's boxes are blended over them with the look's alpha, front and back
faces each. The camera looks down on all of them, so every ray hits the arm before the
palm and the palm before the fingers: the order of blending is fixed. On CPUs a box is
intersected only with the rays of a window around its projection, on accelerators with
all of them, which avoids gathers. Both give the same pixels.

Axes: K boxes, h and w image rows and columns, x right and y down in image coordinates,
which run from 0 to 1.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.envs.ray_caster import (
    Renderer,
    camera_position,
    lambert,
    to_pixels,
    window_of,
    with_window,
)
from swm_jax.envs.scene import COLOUR_OF_BLOCK
from swm_jax.worlds.cube import geometry as geometry
from swm_jax.worlds.cube.overlap import finger_boxes
from swm_jax.worlds.cube.render.looks import CubeLook
from swm_jax.worlds.cube.scene import CubeScene

BACKGROUND, TABLE, GRIPPER, FIRST_CUBE = -1, 0, 1, 2  # what `segment` returns

_POSITION = np.array(geometry.CAMERA_POSITION, np.float32)
_RIGHT = np.array(geometry.CAMERA_RIGHT, np.float32)
_UP = np.array(geometry.CAMERA_UP, np.float32) / np.float32(
    np.linalg.norm(geometry.CAMERA_UP)
)
_FORWARD = np.cross(_UP, _RIGHT)
_TAN = float(np.tan(np.deg2rad(geometry.CAMERA_FOVY) / 2))
_CUBE_RADIUS = geometry.CUBE_HALF * 3**0.5
# The arm's boxes from the last that a ray meets to the first: half sizes and radii.
_ARM_HALVES = (
    geometry.FINGER_HALF,
    geometry.FINGER_HALF,
    geometry.PALM_HALF,
    geometry.ARM_HALF,
)

_ARM_RADII = tuple(float(np.linalg.norm(half)) for half in _ARM_HALVES)


def project(
    points: Float[Array, "... 3"], aspect: float = 1.0, look: CubeLook | None = None
) -> Float[Array, "... 2"]:
    """Image positions of points (metres) for `aspect` = width / height.

    Returns:
      float32[..., 2]: x (right) and y (down), both 0..1 inside the image.
    """
    position = camera_position(look or CubeLook(), _POSITION)
    return _project(jnp.asarray(points, jnp.float32), position, aspect)


def positions(scene: CubeScene) -> Float[Array, "... K 2"]:
    """Image positions of the gripper's point, then of every cube's centre."""
    grip, cubes = scene.gripper[..., None, :3], scene.block_pose[..., :3]
    return project(jnp.concatenate([grip, cubes], -2))


def _label(scene, windowed, *, look, h, w):
    """Labels of pixels: -1 background, 0 table, 1 gripper, 2 + slot for cubes.

    The arm counts as solid unless it is hidden (alpha 0).
    """
    label, depth = _solid(scene, look, h, w, windowed)
    label = jnp.where(label < 2, label - 1, (label - 2) // 3 + FIRST_CUBE)
    for box in _arm(scene, look, h, w, windowed):
        under = window_of(depth, box.corner, box.near.shape)
        shown = (box.near < under) & (box.alpha > 0.0)
        seen = window_of(label, box.corner, box.near.shape)
        label = with_window(label, jnp.where(shown, GRIPPER, seen), box.corner)
    return label


def _draw(scene, windowed, *, look, h, w, k):
    """One image: labels to colours, the arm over them, samples to pixels."""
    label, depth = _solid(scene, look, h * k, w * k, windowed)
    colours = _palette(scene, look)[label]
    for box in _arm(scene, look, h * k, w * k, windowed):
        start, shape = (*box.corner, 0), (*box.near.shape, 3)
        under = window_of(depth, box.corner, box.near.shape)
        seen = window_of(colours, start, shape)
        for reach, axis in ((box.far, box.back), (box.near, box.front)):
            share = jnp.where(reach < under, box.alpha, 0.0)[..., None]
            seen = share * box.shade[axis] + (1.0 - share) * seen
        colours = with_window(colours, seen, start)
    return to_pixels(colours, h, w, k)


def _palette(scene, look):
    """float32[2 + 3 K, 3]: background, table, then three visible faces of each cube."""
    colour = jnp.asarray(look.cube_rgb, jnp.float32)
    colour = colour[jnp.asarray(COLOUR_OF_BLOCK)[scene.block_id]][:, None]
    turn = geometry.rotation_matrix(scene.block_pose[:, 3:])
    faces = _facing(turn, scene.block_pose[:, :3], look)  # [K, 3 faces, 3]
    cubes = (colour * lambert(faces, look)).reshape(-1, 3)
    up = jnp.array([0.0, 0.0, 1.0])
    table = jnp.asarray(look.table_rgb, jnp.float32) * lambert(up, look)
    background = jnp.asarray(look.background_rgb, jnp.float32)
    return jnp.concatenate([background[None], table[None], cubes])


def _facing(turn, centre, look):
    """Normals of the three faces that look towards the camera, [K, 3 faces, 3].

    A face of axis i is seen from its own side only, whichever ray hits it, unless the
    camera's view of the box changes side within it, which happens inside the box.
    """
    axes = jnp.swapaxes(turn, -1, -2)
    towards = camera_position(look, _POSITION) - centre
    side = jnp.sign((axes * towards[:, None]).sum(-1, keepdims=True))
    return axes * side


def _solid(scene, look, h, w, windowed):
    """First hit of each ray on table and cubes.

    Returns:
      label: int32[h, w]: 0 background, 1 table, 2 + 3 * cube + axis of the face.
      depth: float32[h, w], along the camera's axis.
    """
    position = camera_position(look, _POSITION)
    ray = _rays((0, 0), (h, w), h, w)
    falling = jnp.minimum(ray[2], -1e-6)
    depth = -position[2] / falling
    x, y = position[0] + depth * ray[0], position[1] + depth * ray[1]
    on_table = (jnp.maximum(jnp.abs(x), jnp.abs(y)) <= geometry.TABLE_HALF) & (
        ray[2] < 0
    )
    label = on_table.astype(jnp.int32)
    depth = jnp.where(on_table, depth, jnp.inf)
    centre = scene.block_pose[:, :3]
    turn = geometry.rotation_matrix(scene.block_pose[:, 3:])
    window = _window(_CUBE_RADIUS, h, w) if windowed else (h, w)
    first = _window_corner(centre, h, w, window, position)
    half = jnp.full(3, geometry.CUBE_HALF)

    # A loop, not unrolled: XLA would copy a cube's code into each use of it.
    def add_cube(k, layers):
        depth, label = layers
        start = first[k, 0], first[k, 1]
        ray = _rays(start, window, h, w)
        near, _, axis, _ = _box_hit(ray, position, centre[k], turn[k], half)
        behind = window_of(depth, start, window)
        under = window_of(label, start, window)
        shown = jnp.where(near < behind, 2 + 3 * k + axis, under)
        depth = with_window(depth, jnp.minimum(behind, near), start)
        return depth, with_window(label, shown, start)

    depth, label = lax.fori_loop(0, len(centre), add_cube, (depth, label))
    return label, depth


class _Box(NamedTuple):
    """A box of the arm as rays of a window, [h', w'] large, see it.

    Attributes:
      corner: first row and column of the window.
      near, far: float32[h', w'], depths of entry and exit, inf where missed.
      front, back: int32[h', w'], axis of the face there.
      shade: float32[3, 3], lit colour of the faces of each axis.
      alpha: 0 transparent .. 1 solid.
    """

    corner: tuple
    near: jax.Array
    far: jax.Array
    front: jax.Array
    back: jax.Array
    shade: jax.Array
    alpha: jax.Array


def _arm(scene, look, h, w, windowed):
    """The arm's boxes in order of blending, from far to near."""
    position = camera_position(look, _POSITION)
    fingers, turn = finger_boxes(scene.gripper)
    # Of the fingers the one on the camera's side comes later.
    left_is_near = ((position - scene.gripper[:3]) * turn[:, 1]).sum() > 0
    fingers = jnp.where(left_is_near, fingers[::-1], fingers)
    lift = jnp.array([[0, 0, geometry.PALM_RAISE], [0, 0, geometry.ARM_RAISE]])
    centre = jnp.concatenate([fingers, scene.gripper[:3] + lift])
    light = lambert(_facing(jnp.broadcast_to(turn, (4, 3, 3)), centre, look), look)
    colour = jnp.asarray([look.pad_rgb] * 2 + [look.arm_rgb] * 2, jnp.float32)
    shade = colour[:, None] * light  # [box, axis, 3]
    alpha = jnp.asarray([look.pad_alpha] * 2 + [look.arm_alpha] * 2, jnp.float32)
    for k in range(4):
        window = _window(_ARM_RADII[k], h, w) if windowed else (h, w)
        first = _window_corner(centre[k : k + 1], h, w, window, position)[0]
        corner = first[0], first[1]
        ray = _rays(corner, window, h, w)
        half = jnp.asarray(_ARM_HALVES[k], jnp.float32)
        hit = _box_hit(ray, position, centre[k], turn, half)
        yield _Box(corner, *hit, shade[k], alpha[k])


def _box_hit(ray, position, centre, turn, half):
    """Depths of entry and exit (inf where missed), and the axes of the faces there.

    Slabs: along each axis of the box a ray is inside between two depths; it is inside
    the box from the last entry to the first exit.
    """
    slabs = []
    for i in range(3):
        along = ray[0] * turn[0, i] + ray[1] * turn[1, i] + ray[2] * turn[2, i]
        along = jnp.where(jnp.abs(along) < 1e-7, 1e-7, along)  # parallel to the slab
        start = ((position - centre) * turn[:, i]).sum()
        a, b = (-half[i] - start) / along, (half[i] - start) / along
        slabs.append((jnp.minimum(a, b), jnp.maximum(a, b)))
    near, far = slabs[0]
    front = back = jnp.zeros(near.shape, jnp.int32)
    for i, (enter, leave) in enumerate(slabs[1:], 1):
        front, back = jnp.where(enter > near, i, front), jnp.where(leave < far, i, back)
        near, far = jnp.maximum(near, enter), jnp.minimum(far, leave)
    hit = (near <= far) & (near > 0)
    return jnp.where(hit, near, jnp.inf), jnp.where(hit, far, jnp.inf), front, back


def _rays(corner, window, h, w):
    """x, y, z of the rays of a window, one metre along the camera's axis."""
    row = corner[0] + jnp.arange(window[0], dtype=jnp.float32)[:, None] + 0.5
    column = corner[1] + jnp.arange(window[1], dtype=jnp.float32)[None, :] + 0.5
    up = (1.0 - row * (2.0 / h)) * _TAN
    right = (column * (2.0 / w) - 1.0) * (_TAN * w / h)
    return [_FORWARD[i] + up * _UP[i] + right * _RIGHT[i] for i in range(3)]


def _project(points, position, aspect):
    # Sums rather than matrix products, which TPUs would round to bfloat16.
    offset = points - position
    right, up, depth = [(offset * axis).sum(-1) for axis in (_RIGHT, _UP, _FORWARD)]
    depth = 2 * _TAN * jnp.maximum(depth, 1e-3)
    return jnp.stack([0.5 + right / (depth * aspect), 0.5 - up / depth], -1)


def _window_corner(centre, h, w, window, position):
    """int32[K, 2]: first row and column of the windows around points."""
    if window == (h, w):
        return jnp.zeros((len(centre), 2), jnp.int32)
    middle = _project(centre, position, w / h)[:, ::-1] * jnp.float32([h, w])
    first = jnp.floor(middle - jnp.float32(window) / 2).astype(jnp.int32)
    return jnp.clip(first, 0, jnp.int32([h - window[0], w - window[1]]))


@functools.lru_cache
def _window(radius, h, w):
    """Rows and columns that hold a ball anywhere in the workspace, and a pixel around.

    A ball of radius r at depth d reaches r / (d - r) from the middle of its projection,
    a little more away from the image's axis.
    """
    x, y, z = zip(geometry.WALLS_LOW + (0.0,), geometry.WALLS_HIGH + (0.4,))
    corners = np.stack(np.meshgrid(x, y, z), -1).reshape(-1, 3)
    offset = corners - (_POSITION + np.array([-0.05, 0.0, -0.05], np.float32))
    depth = (offset @ _FORWARD).min() - radius
    aside = np.abs(np.stack([offset @ _RIGHT, offset @ _UP])).max() / depth
    size = 2 * radius / depth * np.sqrt(1 + aside**2) / (2 * _TAN) * h
    side = int(np.ceil(size)) + 3
    return min(side, h), min(side, w)


RENDERER = Renderer(CubeLook, _draw, _label)
render, segment = RENDERER.render, RENDERER.segment
