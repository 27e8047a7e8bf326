"""Renderer of Push-T scenes in pure JAX: the view from above, as in gym_pusht.

The camera is orthographic: each sample is a point of the table and shows the highest
object there (peg, T, goal, table). The whole table is always visible; images that are
not square show background beside it. `host.py` has the same functions with MuJoCo's
renderer.

Axes: h and w image rows and columns.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from swm_jax.arrays import Array
from swm_jax.envs.ray_caster import Renderer, lambert, to_pixels
from swm_jax.worlds.pusht.geometry import BOXES, GOAL_POSE, PEG_RADIUS, SIDE
from swm_jax.worlds.pusht.overlap import to_t
from swm_jax.worlds.pusht.render.looks import Look

BACKGROUND, TABLE, PEG, T, GOAL = -1, 0, 1, 2, 3  # what `segment` returns


def view(height: int, width: int) -> tuple[float, float]:
    """Height and width of the view in metres."""
    shorter = min(height, width)
    return SIDE * height / shorter, SIDE * width / shorter


def _draw(scene, windowed, *, look, h, w, k):
    return to_pixels(_palette(look)[_trace(scene, look, h, w, k) + 1], h, w, k)


def _label(scene, windowed, *, look, h, w):
    """Labels of pixels: -1 background, 0 table, 1 peg, 2 the T, 3 its goal."""
    return _trace(scene, look, h, w, 1)


def _palette(look: Look) -> Float[Array, "5 3"]:
    """Lit colours by label, background first; all visible faces point up."""
    lit = jnp.float32([look.table_rgb, look.peg_rgb, look.t_rgb, look.goal_rgb])
    lit = lit * lambert(jnp.float32([0, 0, 1]), look)
    return jnp.concatenate([jnp.float32([look.background_rgb]), lit])


def _trace(scene, look, h, w, k) -> Int[Array, "hk wk"]:
    """Label of the highest object at each sample."""
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


RENDERER = Renderer(Look, _draw, _label)
render, segment = RENDERER.render, RENDERER.segment
