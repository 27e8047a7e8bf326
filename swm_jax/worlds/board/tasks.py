"""Tasks of the benchmark on the board: starts and conditions of success.

  reach           peg within 0.05 m of the block
  separate        the block more than 0.1 m from each of the neighbours it started
                  against (centres)
  block_to_block  the two blocks' centres closer than 0.065 m

Source: Semantic World Models' evaluation release; the number of neighbours and the
positions of clusters, which it leaves open, are ours. Distances are between centres.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key
from ml_collections import ConfigDict

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.choices import index_below, known
from swm_jax.envs.scene import BLOCK_NAMES
from swm_jax.worlds.board.env import (
    PEG_CLEARANCE,
    BoardEnv,
    State,
    place,
    scatter,
    state_at_rest,
    uniform_place,
)
from swm_jax.worlds.board.model import NUM_BLOCKS
from swm_jax.worlds.board.overlap import block_gap
from swm_jax.worlds.board.scene import BLOCK_SETS, Scene
from swm_jax.worlds.world import Task

TASK_NAMES = ("reach", "separate", "block_to_block")
REACHED = 0.05  # metres, peg to block
APART = 0.1  # metres, block to each neighbour
TOGETHER = 0.065  # metres, block to block
TOUCHING = 0.05  # metres, block to neighbour at the start of "separate"
MAX_STEPS = 120
NUM_NEIGHBOURS = 2
CLUSTER_GAP = 0.0005  # metres at least between edges of blocks that touch

# Slots of the five pairs (block to move, block to move it to), the same in both sets:
# green cube - blue moon, red moon - green star, red pentagon - blue moon,
# yellow pentagon - red moon, yellow star - blue cube.
PAIRS = ((5, 1), (0, 6), (2, 1), (3, 0), (7, 4))


@dataclasses.dataclass(frozen=True)
class BoardTask(Task):
    """Task for particular blocks.

    `names` are (block) for reach, (block, neighbours...) for separate, and (block to
    move, block to move it to) for block_to_block.
    """

    max_steps: int = MAX_STEPS

    @prng.in_32_bits()
    def reset(self, env: BoardEnv, key: Key[jax.Array, ""]) -> State:
        """Initial state of this task, in which it is not solved yet.

        Raises:
          ValueError: the env's block set lacks a block of the task.
        """
        return env.native(_start(self.name)(*self._start_arguments(env), key))

    @prng.in_32_bits()
    def reset_batch(self, env: BoardEnv, keys: Key[jax.Array, " B"]) -> State:
        """`reset` for B keys."""
        return env.native(_starts(self.name)(*self._start_arguments(env), keys))

    def success(self, scene: Scene) -> Bool[Array, "..."]:
        """Whether the task is achieved, for scenes with any leading axes."""
        return task_success(self.name, scene, jnp.asarray(self.slots))

    def _start_arguments(self, env):
        here = [BLOCK_NAMES[i] for i in env.block_ids]
        for slot, name in zip(self.slots, self.names):
            if here[slot] != name:
                raise ValueError(
                    f"{self.task} is about the {name}, which is not among the env's "
                    f"blocks: {', '.join(here)}; make the task with its block_set"
                )
        return jnp.asarray(env.block_ids, jnp.int32), jnp.asarray(self.slots)


def make_task(
    name: str,
    pair: int | Sequence[str] | None = None,
    target: int | str | None = None,
    *,
    seed: int = 0,
    neighbours: Sequence[str] | None = None,
    block_set: str = "standard",
) -> BoardTask:
    """Builds a task; arguments that are None are drawn from the seed.

    Args:
      name: "reach", "separate" or "block_to_block".
      pair: block_to_block: an index into the five published pairs or two block
        names; `seed % 5` if None.
      target: reach and separate: a slot or a block name; slot `seed % 8` if None.
      seed: of the episode. Separate's neighbours are drawn from it.
      neighbours: separate: their names.
      block_set: of the env.

    Raises:
      ValueError: an unknown task, pair or block; the message suggests one.
    """
    known("block set", block_set, BLOCK_SETS)
    names = tuple(BLOCK_NAMES[i] for i in BLOCK_SETS[block_set])
    slot_of = lambda block: (
        index_below("slot", block, NUM_BLOCKS)
        if isinstance(block, int)
        else names.index(known("block", block, names))
    )
    if known("task", name, TASK_NAMES) == "block_to_block":
        pair = seed % len(PAIRS) if pair is None else pair
        if isinstance(pair, int):
            slots = PAIRS[index_below("pair", pair, len(PAIRS))]
        else:
            slots = tuple(slot_of(block) for block in pair)
        if len(slots) != 2 or slots[0] == slots[1]:
            raise ValueError(f"pair is {pair!r}, expected two different blocks")
    else:
        first = slot_of(seed % NUM_BLOCKS if target is None else target)
        slots = (first,)
        if name == "separate" and neighbours is None:
            others = [slot for slot in range(NUM_BLOCKS) if slot != first]
            order = np.random.default_rng(seed).permutation(others)
            slots += tuple(int(slot) for slot in order[:NUM_NEIGHBOURS])
        elif name == "separate" and neighbours is not None:
            slots += tuple(slot_of(block) for block in neighbours)
            if len(slots) != 1 + NUM_NEIGHBOURS or len(set(slots)) != len(slots):
                raise ValueError(
                    f"neighbours are {list(neighbours)}, expected {NUM_NEIGHBOURS} "
                    f"different blocks other than the {names[first]}"
                )
    return BoardTask(name, slots, tuple(names[slot] for slot in slots))


def task_in(name: str, seed: int, config: ConfigDict, **which) -> BoardTask:
    """`make_task` for an env with these settings."""
    return make_task(name, seed=seed, block_set=config.block_set, **which)


@functools.partial(jax.jit, static_argnames="name")
def task_success(
    name: str, scene: Scene, slots: Int[Array, "... n"]
) -> Bool[Array, "..."]:
    """Whether a task about the blocks in `slots` is achieved.

    Args:
      name: a key of `TASK_NAMES`.
      scene: any leading axes.
      slots: as `BoardTask.slots`; leading axes broadcast against the scene's.
    """
    lead = scene.peg.shape[:-1]
    slots = jnp.broadcast_to(slots, (*lead, slots.shape[-1]))
    place = jnp.take_along_axis(scene.block_pose[..., :2], slots[..., None], -2)
    if name == "reach":
        return _distance(place[..., 0, :], scene.peg) < REACHED
    gap = _distance(place[..., :1, :], place[..., 1:, :])
    if name == "separate":
        return jnp.all(gap > APART, -1)
    return gap[..., 0] < TOGETHER


def cluster(
    key: Key[jax.Array, ""], slots: Array, rounds: int = 32
) -> tuple[Float[Array, "n 2"], Float[Array, " n"]]:
    """Random cluster of blocks that touch the first one, without overlaps.

    Every further block approaches from a random side at a random yaw until it almost
    meets the first (at most `TOUCHING` between centres). Sides on which it would come
    within `CLUSTER_GAP` of another block are rejected.

    Returns:
      Offsets from the first block in metres, and yaws in radians.
    """
    first_key, key = prng.split(key)
    count = slots.shape[0]
    place = jnp.zeros((count, 2))
    yaw = (
        jnp.zeros(count)
        .at[0]
        .set(prng.uniform(first_key, minval=-jnp.pi, maxval=jnp.pi))
    )
    depth = jnp.linspace(0.026, TOUCHING - 0.001, 12)  # metres between centres
    for i in range(1, count):
        side, turn = prng.uniform(
            prng.fold_in(key, i), (2, rounds), minval=-jnp.pi, maxval=jnp.pi
        )
        way = jnp.stack([jnp.cos(side), jnp.sin(side)], -1)
        tries = way[:, None] * depth[:, None]  # [rounds, depths, 2]
        pose = jnp.concatenate(
            [tries, jnp.broadcast_to(turn[:, None, None], (*tries.shape[:2], 1))], -1
        )
        gaps = jnp.stack(
            [
                block_gap(jnp.append(place[j], yaw[j]), slots[j], pose, slots[i])
                for j in range(i)
            ],
            -1,
        )
        clear = jnp.all(gaps > CLUSTER_GAP, -1)
        nearest = jnp.argmax(clear, -1)  # the closest depth that is clear
        best = jnp.argmax(jnp.any(clear, -1))  # the first side that has one
        place = place.at[i].set(tries[best, nearest[best]])
        yaw = yaw.at[i].set(turn[best])
    return place, yaw


@functools.partial(jax.jit, static_argnames="rounds")
def _start_apart(block_ids, slots, key, rounds=4):
    """First of `rounds` random states in which the pair is not together yet."""
    worlds = jax.vmap(lambda key: place(key, _NO_IDS))(prng.split(key, rounds))
    pose = worlds.qpos[:, : 3 * NUM_BLOCKS].reshape(rounds, NUM_BLOCKS, 3)[..., :2]
    apart = _distance(pose[:, slots[0]], pose[:, slots[-1]]) > TOGETHER + 0.005
    chosen = jnp.argmax(apart | (slots[0] == slots[-1]))
    world = jax.tree.map(lambda x: x[chosen], worlds)
    return world.replace(block_id=block_ids)


@jax.jit
def _start_cluster(block_ids, slots, key):
    """Initial state whose blocks `slots` form a cluster about the first of them."""
    shape_key, place_key, peg_key, rest_key, yaw_key = prng.split(key, 5)
    offset, turn = cluster(shape_key, slots)
    centre = uniform_place(place_key, inset=0.055)
    fixed = jnp.zeros(NUM_BLOCKS, bool).at[slots].set(True)
    placed = jnp.zeros((NUM_BLOCKS, 2)).at[slots].set(centre + offset)
    pegs = uniform_place(peg_key, (64,))
    gap = _distance(pegs[:, None], centre + offset).min(-1)
    peg = pegs[jnp.argmax(gap > PEG_CLEARANCE)]
    placed = scatter(rest_key, peg, placed, fixed)
    yaw = prng.uniform(yaw_key, (NUM_BLOCKS,), minval=-jnp.pi, maxval=jnp.pi)
    yaw = yaw.at[slots].set(turn)
    pose = jnp.concatenate([placed, yaw[:, None]], -1)
    return state_at_rest(pose, peg, block_ids)


def _start(name: str):
    return _start_cluster if name == "separate" else _start_apart


@functools.cache
def _starts(name: str):
    return jax.jit(jax.vmap(_start(name), in_axes=(None, None, 0)))


def _distance(a, b):
    return jnp.linalg.norm(a - b, axis=-1)


_NO_IDS = tuple(BLOCK_SETS["standard"])
