"""Random static scenes for pre-training, with more contacts than uniform positions.

Names and positions can be learned without physics. Uniform positions rarely have
touching or nearly touching pairs, so some blocks are placed next to another one and the
peg often next to a block; overlaps are then pushed apart.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PRNGKeyArray

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.worlds.board.geometry import PEG_BOX
from swm_jax.worlds.board.scene import Scene

NEIGHBOUR_SHARE = 0.3  # blocks that start beside another block
PEG_NEAR_SHARE = 0.5
NEAR = (0.038, 0.085)  # metres between the centres of neighbours
BLOCK_GAP = 0.042  # smallest distance of two centres after the push
PEG_GAP = 0.034  # smallest distance of the peg to a centre
PUSH_ROUNDS = 12
_LOW, _HIGH = PEG_BOX
_MARGIN = 0.02  # metres that block centres keep from the board's edge


def random_scenes(key: PRNGKeyArray, count: int, block_ids: tuple[int, ...]) -> Scene:
    """Scenes with every block of a set on the board.

    Args:
      key: randomness.
      count: S, number of scenes.
      block_ids: the block in each of the 8 slots.

    Returns:
      A scene with leading axis S.
    """
    ids = jnp.asarray(block_ids, jnp.int32)
    return jax.vmap(lambda k: _one(k, ids))(prng.split(key, count))


def _beside(key: PRNGKeyArray, points: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
    angle_key, distance_key = prng.split(key)
    angle = prng.uniform(angle_key, points.shape[:1], maxval=2 * jnp.pi)
    distance = prng.uniform(
        distance_key, points.shape[:1], minval=NEAR[0], maxval=NEAR[1]
    )
    step = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return points + distance[:, None] * step


def _one(key: PRNGKeyArray, ids: Int[Array, " n"]) -> Scene:
    n = ids.shape[0]
    keys = prng.split(key, 9)
    place, pick, near, turn, peg_place, peg_near, peg_pick, share, peg_share = keys
    low, high = _LOW + _MARGIN, _HIGH - _MARGIN
    free = prng.uniform(place, (n, 2), minval=low, maxval=high)
    partner = prng.randint(pick, (n,), 0, n)
    beside = _beside(near, free[partner])
    use = prng.uniform(share, (n, 1)) < NEIGHBOUR_SHARE
    blocks = jnp.where(use & (partner != jnp.arange(n))[:, None], beside, free)
    blocks = _push_apart(jnp.clip(blocks, low, high), low, high)
    peg = prng.uniform(peg_place, (1, 2), minval=_LOW, maxval=_HIGH)
    chosen = blocks[prng.randint(peg_pick, (1,), 0, n)]
    is_near = prng.uniform(peg_share) < PEG_NEAR_SHARE
    peg = jnp.where(is_near, _beside(peg_near, chosen), peg)[0]
    peg = _clear_of(jnp.clip(peg, _LOW, _HIGH), blocks)
    yaw = prng.uniform(turn, (n, 1), minval=-jnp.pi, maxval=jnp.pi)
    return Scene(block_pose=jnp.concatenate([blocks, yaw], -1), block_id=ids, peg=peg)


def _push_apart(blocks: Float[Array, "n 2"], low, high) -> Float[Array, "n 2"]:
    """Moves overlapping blocks apart by half the overlap each, `PUSH_ROUNDS` times."""

    def push(_, points):
        offset = points[:, None] - points[None]
        # 1e-12 keeps coincident points (the diagonal) from dividing by 0.
        distance = jnp.sqrt(jnp.square(offset).sum(-1) + 1e-12)
        overlap = jnp.maximum(BLOCK_GAP - distance, 0.0) * (1 - jnp.eye(len(points)))
        step = (offset / distance[..., None] * overlap[..., None]).sum(1) * 0.5
        return jnp.clip(points + step, low, high)

    return jax.lax.fori_loop(0, PUSH_ROUNDS, push, blocks)


def _clear_of(peg: Float[Array, " 2"], blocks: Float[Array, "n 2"]):
    """Moves the peg out of the blocks."""

    def push(_, point):
        offset = point - blocks
        distance = jnp.sqrt(jnp.square(offset).sum(-1, keepdims=True) + 1e-12)
        overlap = jnp.maximum(PEG_GAP - distance, 0.0)
        return jnp.clip(point + (offset / distance * overlap).sum(0), _LOW, _HIGH)

    return jax.lax.fori_loop(0, PUSH_ROUNDS, push, peg)
