"""Scripted policy that pushes block a to block b, a function of the scene alone.

At every step it plans a path of block a around the other blocks. If the peg is behind a
in that direction it pushes; else it moves around all blocks (a included) to the place
behind a. Paths are found on a coarse grid: the cost to the goal from every cell, by
Bellman-Ford sweeps over the eight neighbours. Blocks are circles with a high cost
rather than obstacles, so that a path always exists. Pure jnp: jit and vmap apply.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.worlds.board import geometry as geometry
from swm_jax.worlds.board.model import BLOCK_BOUNDS, block_radius
from swm_jax.worlds.board.scene import SLOT_SHAPES, Scene

CELL = 0.02  # metres
SWEEPS = 28  # the map is 23 x 31 cells; a sweep reaches further than one
DEAR = 30.0  # extra cost per metre of path, for each cell size of depth in a circle
CLEARANCE = 0.004  # metres kept from circles when walking
STANDOFF = 0.008  # metres between a's circle and the peg before a push
LATERAL = 0.010  # metres off the line of push that can still be corrected
PUSH = 0.022  # metres per step while pushing
WALK = 0.03  # metres per step while walking
LOOK_AHEAD = 0.05  # metres of block a's way that one push aims along

_RADIUS = np.array([block_radius(shape) for shape in SLOT_SHAPES], np.float32)
_BLOCK_BOX = np.array(BLOCK_BOUNDS, np.float32)
_ANGLES = np.arange(32) * (2 * np.pi / 32)
_HEADINGS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], -1).astype(np.float32)
_AXES = [np.arange(low, high + CELL / 2, CELL) for low, high in geometry.PEG_BOX.T]
_CENTRES = np.stack(np.meshgrid(*_AXES, indexing="ij"), -1).astype(np.float32)


def oracle_action(
    scene: Scene,
    a_id: Int[Array, ""],
    b_id: Int[Array, ""],
    key: Key[jax.Array, ""],
) -> Float[Array, "2"]:
    """The pusher's next action, at most `WALK` metres long.

    Args:
      scene: one scene (vmap for more); both blocks must be on the board.
      a_id, b_id: block ids: the block to move and the block to move it to.
      key: the speed varies randomly by 20 % from step to step.
    """
    slot = jnp.argmax(scene.block_id == a_id)
    a = scene.block_pose[slot, :2]
    behind, direction = _stand(scene, slot, jnp.argmax(scene.block_id == b_id))
    side = jnp.stack([-direction[1], direction[0]])
    offset = scene.peg - a
    along, lateral = offset @ direction, offset @ side
    reach = jnp.asarray(_RADIUS)[slot] + geometry.PEG_RADIUS
    # Push from behind: between inside the circle (contact with flat sides) and a few
    # standoffs away, close to the line of the push.
    ready = (along < -0.4 * reach) & (along > -reach - 3 * STANDOFF)
    ready &= jnp.abs(lateral) < LATERAL
    pace = prng.uniform(key, minval=0.8, maxval=1.0)
    correction = jnp.clip(-0.8 * lateral, -0.012, 0.012)
    push = PUSH * pace * direction + correction * side
    return jnp.where(ready, push, _walk(scene, behind, WALK * pace))


def _stand(scene, slot, b_slot):
    """Position of the peg for the next push, and the unit vector to push along."""
    place = scene.block_pose[:, :2]
    a, b = place[slot], place[b_slot]
    radius = jnp.asarray(_RADIUS)
    slots = jnp.arange(len(_RADIUS))
    others = (slots != slot) & (slots != b_slot)
    reach = jnp.where(others, radius + radius[slot], 0.0)
    direction = _heading(a, b, place, reach, LOOK_AHEAD, _BLOCK_BOX)
    stand = a - direction * (radius[slot] + geometry.PEG_RADIUS + STANDOFF)
    return jnp.clip(stand, *geometry.PEG_BOX), direction


def _walk(scene, goal, pace):
    """One step of the peg towards the goal, around all blocks."""
    reach = jnp.asarray(_RADIUS) + geometry.PEG_RADIUS + CLEARANCE
    way = goal - scene.peg
    heading = _heading(
        scene.peg, goal, scene.block_pose[:, :2], reach, WALK, geometry.PEG_BOX
    )
    return heading * jnp.minimum(pace, jnp.linalg.norm(way))


def _heading(start, goal, centres, reach, stride, box):
    """Unit vector of the first stride on the cheapest path around circles.

    Straight to the goal if the line is free; else the heading with the least cost: of
    the stride itself, and of the map at its end.
    """
    way = goal - start
    distance = jnp.maximum(jnp.linalg.norm(way), 1e-6)
    straight = way / distance
    # Shrink circles that contain start or goal, which no path can avoid.
    ends = jnp.minimum(
        jnp.linalg.norm(centres - start, axis=-1),
        jnp.linalg.norm(centres - goal, axis=-1),
    )
    reach = jnp.minimum(reach, jnp.maximum(ends - 0.001, 0.0))
    trail = start + jnp.linspace(0.0, 1.0, 24)[:, None] * way
    free = _toll(trail, centres, reach, box).max() <= 0.0
    stride = jnp.minimum(stride, distance)
    ends = start + stride * _HEADINGS
    halves = start + 0.5 * stride * _HEADINGS
    toll = _toll(ends, centres, reach, box) + _toll(halves, centres, reach, box)
    cost = _read(_map(goal, centres, reach, box), ends) + 0.5 * stride * toll
    return jnp.where(free, straight, jnp.asarray(_HEADINGS)[jnp.argmin(cost)])


def _toll(points, centres, reach, box):
    """Extra cost per metre of path at each point, by depth in circles and walls."""
    depth = reach - jnp.linalg.norm(points[..., None, :] - centres, axis=-1)
    outside = jnp.maximum(box[0] - points, points - box[1]).max(-1)
    return DEAR * (
        jnp.maximum(depth, 0.0).sum(-1) / CELL + jnp.maximum(outside, 0.0) / CELL
    )


def _map(goal, centres, reach, box):
    """Cost to the goal from every cell [nx, ny], in metres of free path."""
    toll = 1.0 + _toll(jnp.asarray(_CENTRES), centres, reach, box)
    away = jnp.linalg.norm(_CENTRES - goal, axis=-1)
    cost = jnp.where(away < 1.5 * CELL, away, 1e3)  # seeds: the cells around the goal
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]

    def sweep(_, cost):
        padded = jnp.pad(cost, 1, constant_values=1e3)
        rows, columns = cost.shape
        for i, j in steps:
            near = padded[1 + i : 1 + i + rows, 1 + j : 1 + j + columns]
            cost = jnp.minimum(cost, near + CELL * np.hypot(i, j) * toll)
        return cost

    return jax.lax.fori_loop(0, SWEEPS, sweep, cost)


def _read(grid, points):
    """Bilinear interpolation of a map between cell centres."""
    cell = (points - _CENTRES[0, 0]) / CELL
    return jax.scipy.ndimage.map_coordinates(grid, list(cell.T), 1, mode="nearest")
