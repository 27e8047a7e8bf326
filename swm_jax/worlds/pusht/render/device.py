"""Renders Push-T scenes in plain JAX: the view straight from above, as in gym_pusht.

The camera is orthographic: each sample is a point of the table, and what is highest
there is seen (peg, T, goal, table). The whole table is always in the picture; one that
is not square shows background beside it. The same call through MuJoCo's own renderer is
in `host_render.py`.

Axes: h and w image rows and columns.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt8

from swm_jax.arrays import Array
from swm_jax.envs.ray_caster import check_size, lambert, over_scenes, to_pixels
from swm_jax.worlds.pusht.geometry import BOXES, GOAL_POSE, PEG_RADIUS, SIDE
from swm_jax.worlds.pusht.overlap import to_t
from swm_jax.worlds.pusht.render.looks import Look
from swm_jax.worlds.pusht.scene import Scene

BACKGROUND, TABLE, PEG, T, GOAL = -1, 0, 1, 2, 3  # what `segment` returns


def render(
    scene: Scene,
    height: int,
    width: int,
    *,
    supersample: int = 1,
    look: Look | None = None,
) -> UInt8[Array, "... h w 3"]:
    """Images of scenes.

    Args:
      scene: any leading axes.
      height: rows of the image.
      width: columns of the image.
      supersample: k averages k x k samples in each pixel (anti-aliasing).
      look: colours, light and camera offset; the default look if None.

    Returns:
      uint8[..., height, width, 3], red, green, blue.
    """
    check_size(height, width, supersample)
    return _render(scene, look or Look(), height, width, supersample)


def segment(
    scene: Scene, height: int, width: int, *, look: Look | None = None
) -> Int[Array, "... h w"]:
    """What each pixel's centre shows.

    Returns:
      int32[..., height, width]: -1 background, 0 table, 1 peg, 2 the T, 3 its goal.
    """
    check_size(height, width)
    return _segment(scene, look or Look(), height, width)


def view(height: int, width: int) -> tuple[float, float]:
    """Metres that a picture shows from top to bottom and from left to right."""
    shorter = min(height, width)
    return SIDE * height / shorter, SIDE * width / shorter


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _render(scene, look, height, width, k):
    colours = _palette(look)

    def draw(one, windowed):
        del windowed  # a T is not small against the table
        label = _trace(one, look, height, width, k)
        return to_pixels(colours[label + 1], height, width, k)

    return over_scenes(draw, scene)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _segment(scene, look, height, width):
    draw = lambda one, windowed: _trace(one, look, height, width, 1)
    return over_scenes(draw, scene)


def _palette(look: Look) -> Float[Array, "5 3"]:
    """Colours by label, background first; all faces that are seen look up."""
    lit = jnp.float32([look.table_rgb, look.peg_rgb, look.t_rgb, look.goal_rgb])
    lit = lit * lambert(jnp.float32([0, 0, 1]), look)
    return jnp.concatenate([jnp.float32([look.background_rgb]), lit])


def _trace(scene, look, h, w, k) -> Int[Array, "hk wk"]:
    """Label of what is highest at each sample."""
    high, wide = view(h, w)
    row = (jnp.arange(h * k, dtype=jnp.float32) + 0.5) / (h * k)
    column = (jnp.arange(w * k, dtype=jnp.float32) + 0.5) / (w * k)
    offset = jnp.asarray(look.camera_offset, jnp.float32)
    x = SIDE / 2 + offset[0] + (column - 0.5) * wide
    y = SIDE / 2 + offset[1] + (0.5 - row) * high
    points = jnp.stack(jnp.meshgrid(x, y), -1)
    on_table = ((points >= 0.0) & (points <= SIDE)).all(-1)
    label = jnp.where(on_table, TABLE, BACKGROUND)
    label = jnp.where(_on_t(jnp.float32(GOAL_POSE), points), GOAL, label)
    label = jnp.where(_on_t(scene.block_pose[0], points), T, label)
    on_peg = ((points - scene.peg) ** 2).sum(-1) <= PEG_RADIUS**2
    return jnp.where(on_peg, PEG, label)


def _on_t(pose: Float[Array, "3"], points: Float[Array, "h w 2"]) -> Bool[Array, "h w"]:
    local = to_t(pose, points)
    inside = [(jnp.abs(local - c) <= half).all(-1) for c, half in BOXES]
    return inside[0] | inside[1]
