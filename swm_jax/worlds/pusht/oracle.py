"""Scripted policy that pushes the T to its goal, a function of the scene alone.

Pushes at points all along the T's outline are evaluated by a quasi-static model without
contact friction: a push by s along the inward normal n at r moves the centroid by
s k n and turns the T by s k m / g^2, with m = r x n, k = 1 / (1 + m^2 / g^2) and g the
radius of gyration (the table's friction scales all components of a velocity alike). The
push that brings the T nearest to its goal is chosen, with a cost for the peg's path to
it; the peg moves there around the T and pushes. Pure jnp: jit and vmap apply.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.worlds.pusht import geometry
from swm_jax.worlds.pusht.geometry import GYRATION, PEG_RADIUS
from swm_jax.worlds.pusht.overlap import goal_distance, t_gap, to_t, turn_left
from swm_jax.worlds.pusht.scene import Scene

PUSHES = (0.001, 0.003, 0.01, 0.025)  # metres, evaluated lengths of a push
WALK = 0.03  # metres per step while walking
STANDOFF = 0.006  # metres between the T and the peg before a push
LATERAL = 0.005  # metres beside the place from which a push begins
WORTH = 0.0003  # metres nearer to the goal, below which the peg stands still
WALK_COST = 0.06  # metres of goal distance per metre of the peg's path
_SPACING = 0.006  # metres between places
_ROUND = geometry.T_RADIUS + PEG_RADIUS + 0.008  # radius of the way around the T
_GOAL = np.array(geometry.GOAL_POSE, np.float32)


def _places() -> tuple[np.ndarray, np.ndarray]:
    """Places on the outline and inward normals, T frame, both [P, 2]."""
    places, normals = [], []
    for start, end in zip(geometry.OUTLINE, np.roll(geometry.OUTLINE, -1, axis=0)):
        along = end - start
        size = float(np.linalg.norm(along))
        share = np.linspace(0.0, 1.0, round(size / _SPACING) + 1)[1:-1, None]
        places.append(start + share * along)
        inward = np.array([-along[1], along[0]]) / size
        normals.append(np.tile(inward, (len(share), 1)))
    places, normals = np.concatenate(places), np.concatenate(normals)
    # Without the inner corners under the bar, where the peg does not fit.
    stand = places - normals * (PEG_RADIUS + STANDOFF)
    free = t_gap(np.zeros(3, np.float32), stand.astype(np.float32)) > PEG_RADIUS
    return places[free].astype(np.float32), normals[free].astype(np.float32)


_PLACES, _NORMALS = _places()
_STANDS = _PLACES - _NORMALS * np.float32(PEG_RADIUS + STANDOFF)
_LEVER = _PLACES[:, 0] * _NORMALS[:, 1] - _PLACES[:, 1] * _NORMALS[:, 0]
_SHARE = 1.0 / (1.0 + (_LEVER / GYRATION) ** 2)


def oracle_action(scene: Scene, key: Key[jax.Array, ""]) -> Float[Array, "2"]:
    """The pusher's next action, at most about `WALK` metres long.

    Args:
      scene: one scene (vmap for more).
      key: the speed varies randomly from step to step.
    """
    pose = scene.block_pose[0]
    peg = to_t(pose, scene.peg)
    best, push, gain = _choose(pose, peg)
    place, normal = jnp.asarray(_PLACES)[best], jnp.asarray(_NORMALS)[best]
    side = jnp.stack([-normal[1], normal[0]])
    offset = peg - place
    along, beside = offset @ normal, offset @ side
    ready = (jnp.abs(beside) < LATERAL) & (along > -PEG_RADIUS - 3 * STANDOFF)
    ready &= along < 0.0
    pace = prng.uniform(key, minval=0.8, maxval=1.0)
    touch = jnp.maximum(-along - PEG_RADIUS, 0.0)  # metres to go before it pushes
    forward = (touch + pace * push) * normal - 0.8 * beside * side
    step = jnp.where(ready, forward, _walk(pose, peg, best, pace))
    step = jnp.where(gain > WORTH, step, 0.0)
    cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
    return jnp.stack([cos * step[0] - sin * step[1], sin * step[0] + cos * step[1]])


def _choose(
    pose: Float[Array, "3"], peg: Float[Array, "2"]
) -> tuple[Int[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Index of the place to push, length of the push and gain in goal distance, m."""
    way, turn = to_t(pose, jnp.asarray(_GOAL[:2])), turn_left(pose)
    push = jnp.asarray(PUSHES)[:, None]
    left = way - (push * _SHARE)[..., None] * _NORMALS
    twist = turn - push * _SHARE * _LEVER / GYRATION**2
    far = (left**2).sum(-1) + (2.0 * GYRATION * jnp.sin(0.5 * twist)) ** 2
    far = jnp.sqrt(far + 1e-12)  # [pushes, P]
    reachable = _reachable(pose)
    to_walk = jnp.linalg.norm(peg - _STANDS, axis=-1)
    # A penalty above any distance instead of a mask, so that argmin always exists.
    cost = far + WALK_COST * to_walk + jnp.where(reachable, 0.0, 1.0)
    best = jnp.argmin(cost.min(0))
    which = jnp.argmin(cost[:, best])
    return best, jnp.asarray(PUSHES)[which], goal_distance(pose) - far[which, best]


def _reachable(pose: Float[Array, "3"]) -> Array:
    """Whether the peg's position behind each place is on the table, bool[P]."""
    cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
    x, y = _STANDS[:, 0], _STANDS[:, 1]
    stand = pose[:2] + jnp.stack([cos * x - sin * y, sin * x + cos * y], -1)
    low, high = jnp.asarray(geometry.PEG_BOX)
    return ((stand >= low) & (stand <= high)).all(-1)


def _walk(pose, peg, best, pace):
    """Step towards the position behind a place, around the T if it is in the way."""
    goal = jnp.asarray(_STANDS)[best]
    trail = peg + jnp.linspace(0.0, 1.0, 24)[:, None] * (goal - peg)
    flat = jnp.zeros(3)  # in the T's own frame
    # The peg may touch the T at the start: require only that it does not get closer.
    room = jnp.minimum(t_gap(flat, peg), PEG_RADIUS + 0.002) - 0.001
    free = t_gap(flat, trail).min() >= room
    radius = jnp.linalg.norm(peg)
    angle = jnp.arctan2(peg[1], peg[0])
    turn = jnp.arctan2(goal[1], goal[0]) - angle
    turn = jnp.arctan2(jnp.sin(turn), jnp.cos(turn))
    out = radius < _ROUND - 0.01
    ahead = angle + jnp.where(out, 0.0, jnp.clip(turn, -0.28, 0.28))
    around = _ROUND * jnp.stack([jnp.cos(ahead), jnp.sin(ahead)])
    way = jnp.where(free, goal, around) - peg
    distance = jnp.maximum(jnp.linalg.norm(way), 1e-6)
    return way * jnp.minimum(1.0, WALK * pace / distance)
