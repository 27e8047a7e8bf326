"""Ray caster for board scenes in pure JAX, one ray per sample.

`render` returns images, `segment` a label per pixel, `project` image positions of
points. `host.py` has the same functions with MuJoCo's renderer.

The field of view is always the camera's 16:9 view, so a square image is the whole view
squeezed. On CPUs a block is intersected only with the rays of a window around its
projection (about a thirtieth of the image), on accelerators with all rays, which avoids
gathers. Both give the same pixels.

Axes: K blocks, h and w image rows and columns, x right and y down in image
coordinates, which run from 0 to 1; x away from the robot, y right, z up on the board.
"""

import functools

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
from swm_jax.worlds.board import geometry as board
from swm_jax.worlds.board.render.looks import Look
from swm_jax.worlds.board.render.shapes import (
    BLOCK_OUTLINES,
    FACES,
    TOP,
    cylinder_hit,
    edge_normals,
    place_outlines,
    prism_hit,
)
from swm_jax.worlds.board.scene import Scene

BACKGROUND, BOARD, PEG, FIRST_BLOCK = -1, 0, 1, 2  # what `segment` returns

_POSITION = np.array(board.CAMERA_POSITION, np.float32)
_FORWARD = np.array(board.CAMERA_FORWARD, np.float32) / np.linalg.norm(
    board.CAMERA_FORWARD
)
_RIGHT = np.cross(_FORWARD, board.CAMERA_UP)
_RIGHT = (_RIGHT / np.linalg.norm(_RIGHT)).astype(np.float32)
_UP = np.cross(_RIGHT, _FORWARD).astype(np.float32)
_TAN_Y = float(np.tan(np.deg2rad(board.CAMERA_FOVY) / 2))
_TAN_X = _TAN_Y * board.CAMERA_ASPECT

_PEG_TOP = board.PEG_BOTTOM + board.PEG_LENGTH
_BOARD_X = (
    board.X_BOUNDS[0] - board.BOARD_MARGIN,
    board.X_BOUNDS[1] + board.BOARD_MARGIN,
)
_BOARD_Y = (
    board.Y_BOUNDS[0] - board.BOARD_MARGIN,
    board.Y_BOUNDS[1] + board.BOARD_MARGIN,
)


def project(
    points: Float[Array, "... 3"], look: Look | None = None
) -> Float[Array, "... 2"]:
    """Image positions of points in the board frame (metres).

    Returns:
      float32[..., 2]: x (right) and y (down), both 0..1 inside the image.
    """
    return _project(
        jnp.asarray(points, jnp.float32), camera_position(look or Look(), _POSITION)
    )


def positions(scene: Scene) -> Float[Array, "... K 2"]:
    """Image positions (`project`) of the peg's foot and of every block's centre."""
    block, peg = scene.block_pose[..., :2], scene.peg[..., None, :]
    half = jnp.full((*block.shape[:-1], 1), board.BLOCK_HEIGHT / 2)
    foot = jnp.concatenate([peg, jnp.zeros((*peg.shape[:-1], 1))], -1)
    return project(jnp.concatenate([foot, jnp.concatenate([block, half], -1)], -2))


def _label(scene, windowed, *, look, h, w):
    """Labels of pixels: -1 background, 0 board, 1 peg, 2 + slot for blocks."""
    label, _, peg_mask, corner = _trace(scene, look, h, w, windowed)
    what = jnp.where(label < 0, label + 1, label // FACES + FIRST_BLOCK)
    seen = window_of(what, corner, peg_mask.shape)
    return with_window(what, jnp.where(peg_mask, PEG, seen), corner)


def _draw(scene, windowed, *, look, h, w, k):
    """One image: labels to colours, the peg on top, samples to pixels."""
    label, peg_rgb, peg_mask, corner = _trace(scene, look, h * k, w * k, windowed)
    colours = _palette(scene, look)[label + 2]
    seen = window_of(colours, (*corner, 0), (*peg_mask.shape, 3))
    seen = jnp.where(peg_mask[..., None], peg_rgb, seen)
    colours = with_window(colours, seen, (*corner, 0))
    return to_pixels(colours, h, w, k)


def _palette(scene, look):
    """float32[2 + K * FACES, 3]: background, board, then every face of every block."""
    normals = edge_normals(place_outlines(scene.block_pose, scene.block_id))
    upright = jnp.concatenate([normals, jnp.zeros_like(normals[..., :1])], -1)
    top = jnp.broadcast_to(jnp.float32([0, 0, 1]), (len(normals), 1, 3))
    light = lambert(jnp.concatenate([upright, top], 1), look)
    colour = jnp.asarray(look.block_rgb, jnp.float32)
    blocks = colour[jnp.asarray(COLOUR_OF_BLOCK)[scene.block_id]][:, None] * light
    background = jnp.asarray(look.background_rgb, jnp.float32)
    ground = jnp.asarray(look.board_rgb, jnp.float32) * light[0, TOP]
    return jnp.concatenate([background[None], ground[None], blocks.reshape(-1, 3)])


def _trace(scene, look, h, w, windowed):
    """First surface that each ray meets.

    Returns:
      label: int32[h, w]: -2 background, -1 board, block * FACES + face.
      peg_rgb, peg_mask: float32[h', w', 3] and bool[h', w'], the visible part of
        the peg, in a window whose first row and column are `corner`.
    """
    position = camera_position(look, _POSITION)
    x, y, _ = _rays((0, 0), (h, w), h, w, position, 0.0)
    on_board = (x >= _BOARD_X[0]) & (x <= _BOARD_X[1])
    on_board &= (y >= _BOARD_Y[0]) & (y <= _BOARD_Y[1])
    label = jnp.where(on_board, -1, -2)
    depth = jnp.full((h, w), jnp.inf)

    corners = place_outlines(scene.block_pose, scene.block_id)
    radius = np.linalg.norm(BLOCK_OUTLINES, axis=-1).max()
    window = _window(radius, 0.0, board.BLOCK_HEIGHT, h, w) if windowed else (h, w)
    first = _window_corner(corners, 0.0, board.BLOCK_HEIGHT, h, w, window, position)

    # A loop, not unrolled: XLA would copy a block's code into each use of it.
    def add_block(k, layers):
        depth, label = layers
        start = first[k, 0], first[k, 1]
        block_depth, face = _prism(corners[k], start, window, h, w, position)
        behind = window_of(depth, start, window)
        under = window_of(label, start, window)
        shown = jnp.where(block_depth < behind, face + k * FACES, under)
        depth = with_window(depth, jnp.minimum(behind, block_depth), start)
        return depth, with_window(label, shown, start)

    depth, label = lax.fori_loop(0, len(corners), add_block, (depth, label))

    low, high = board.PEG_BOTTOM, _PEG_TOP
    window = _window(board.PEG_RADIUS, low, high, h, w) if windowed else (h, w)
    square = scene.peg + board.PEG_RADIUS * jnp.float32(
        [[-1, -1], [1, -1], [1, 1], [-1, 1]]
    )
    corner = _window_corner(square[None], low, high, h, w, window, position)[0]
    corner = corner[0], corner[1]
    x1, y1, t1 = _rays(corner, window, h, w, position, high)
    x0, y0, t0 = _rays(corner, window, h, w, position, low)
    enter, run = (x1, y1), (x0 - x1, y0 - y1)
    s, on_top, side = cylinder_hit(scene.peg, board.PEG_RADIUS, enter, run)
    behind = window_of(depth, corner, window)
    mask = (s <= 1.0) & (t1 + s * (t0 - t1) < behind)
    normal = jnp.stack(
        [jnp.where(on_top, 0.0, side[0]), jnp.where(on_top, 0.0, side[1]), on_top], -1
    )
    peg_rgb = jnp.asarray(look.peg_rgb, jnp.float32) * lambert(normal, look)
    return label, peg_rgb, mask, corner


def _prism(corners, start, window, h, w, position):
    """Depth (inf where missed) and face of one block in its window, [h', w']."""
    x1, y1, t1 = _rays(start, window, h, w, position, board.BLOCK_HEIGHT)
    x0, y0, t0 = _rays(start, window, h, w, position, 0.0)
    s, face = prism_hit(corners, (x1, y1), (x0 - x1, y0 - y1))
    return jnp.where(s <= 1.0, t1 + s * (t0 - t1), jnp.inf), face


def _rays(corner, window, h, w, position, z):
    """x, y and depth where the rays of a window cross the plane at height z."""
    row = corner[0] + jnp.arange(window[0], dtype=jnp.float32)[:, None] + 0.5
    column = corner[1] + jnp.arange(window[1], dtype=jnp.float32)[None, :] + 0.5
    up = (1.0 - row * (2.0 / h)) * _TAN_Y
    right = (column * (2.0 / w) - 1.0) * _TAN_X
    # The camera has no roll: its right axis is horizontal.
    depth = (z - position[2]) / (_FORWARD[2] + up * _UP[2])
    x = position[0] + depth * (_FORWARD[0] + up * _UP[0] + right * _RIGHT[0])
    y = position[1] + depth * (_FORWARD[1] + up * _UP[1] + right * _RIGHT[1])
    return x, y, depth + jnp.zeros_like(x)


def _project(points, position):
    # Sums rather than matrix products, which TPUs would round to bfloat16.
    offset = points - position
    along = [(offset * axis).sum(-1) for axis in (_RIGHT, _UP, _FORWARD)]
    depth = jnp.maximum(along[2], 1e-3)
    return jnp.stack(
        [0.5 + along[0] / (2 * _TAN_X * depth), 0.5 - along[1] / (2 * _TAN_Y * depth)],
        -1,
    )


def _window_corner(corners, low, high, h, w, window, position):
    """int32[K, 2]: first row and column of the window around each prism."""
    if window == (h, w):
        return jnp.zeros((len(corners), 2), jnp.int32)
    lift = jnp.stack([jnp.full(corners.shape[:2], z) for z in (low, high)], -1)
    both = jnp.broadcast_to(corners[..., None, :], (*lift.shape, 2))
    image = _project(jnp.concatenate([both, lift[..., None]], -1), position)
    first = image.reshape(len(corners), -1, 2).min(1)[:, ::-1]
    first = jnp.floor(first * jnp.float32([h, w])).astype(jnp.int32)
    return jnp.clip(first, 0, jnp.int32([h - window[0], w - window[1]]))


@functools.lru_cache
def _window(radius, low, high, h, w):
    """Rows and columns of a window that contains an upright object at any position.

    The largest projected box of a bounding cylinder over a grid of positions and the
    nearest cameras that a look allows, plus a pixel on each side.
    """
    turn = np.linspace(0, 2 * np.pi, 32)
    ring = radius * np.stack([np.cos(turn), np.sin(turn)], -1)
    x = np.linspace(_BOARD_X[0], _BOARD_X[1], 24)
    y = np.linspace(_BOARD_Y[0], _BOARD_Y[1], 24)
    place = np.stack(np.meshgrid(x, y), -1).reshape(-1, 1, 2) + ring
    points = np.concatenate(
        [
            np.concatenate([place, np.full_like(place[..., :1], z)], -1)
            for z in (low, high)
        ],
        1,
    )
    size = np.zeros(2)
    for shift in ((0.05, 0, -0.05), (-0.05, 0, -0.05), (0, 0.05, -0.05), (0, 0, 0)):
        offset = points - (_POSITION + np.array(shift, np.float32))
        depth = offset @ _FORWARD
        column = offset @ _RIGHT / (2 * _TAN_X * depth) * w
        row = offset @ _UP / (2 * _TAN_Y * depth) * h
        box = np.stack([np.ptp(row, axis=1), np.ptp(column, axis=1)], -1)
        size = np.maximum(size, box.max(0))
    rows, columns = np.ceil(size).astype(int) + 2
    return min(int(rows), h), min(int(columns), w)


RENDERER = Renderer(Look, _draw, _label)
render, segment = RENDERER.render, RENDERER.segment
