"""Where in the stored episodes each kind of answer can be found.

A *start* is a frame of an episode from which actions are taken. A *cell* is a kind of
query: (question type, horizon bucket, answer, changed), where `changed` says that a
question about a state has another answer now than at the horizon, so that the image
alone misleads. A pool lists the starts at which a cell has at least one query.

Questions are handled by slot, not by block id, as every episode may have its own
blocks: `slot_questions` is one table per type, `margins` evaluates it on episodes
with the very rules of `swm_jax.questions.predicates`. Mirror twins (a touches b,
b touches a) appear once; the sampler names either order.

Axes: N episodes, T actions of the longest, M starts, n questions of a type, K buckets.
"""

import dataclasses
import functools
import types
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.saqa.horizons import Horizons
from swm_jax.questions import (
    ALL_TYPES,
    CHANGE_TYPES,
    DOMAINS,
    domain_of,
    predicates,
    type_arguments,
)
from swm_jax.questions.cube_predicates import CUBE_RULES, Poses
from swm_jax.questions.predicates import RULES, USES_A, USES_B, Points

SYMMETRIC = (
    "block_touching",
    "block_direction",
    "blocks_closer",
    "blocks_apart",
    "cubes_touching",
    "cubes_closer",
)
_CHUNK = 2000  # starts evaluated at once


class Episodes(Protocol):
    """What is needed of stored episodes; `arrays.EpisodeArrays` has it.

    Attributes:
      length: int[N], actions of each episode; it has one frame more.
      block_pose: float32[N, T + 1, s, 3 or 7], of the blocks in s slots.
      peg: float32[N, T + 1, 2], or gripper: float32[N, T + 1, 6].
      action: float32[N, T, A].
      block_id: int32[N, s].
    """

    length: Int[np.ndarray, " N"]
    block_pose: Float[np.ndarray, "N T+1 s pose"]
    action: Float[np.ndarray, "N T A"]
    block_id: Int[np.ndarray, "N s"]


@functools.cache
def slot_questions(name: str, slots: int = 8) -> Int[np.ndarray, "n 2"]:
    """Arguments of a type's questions with slots for block ids, twins once."""
    rows = type_arguments(name, range(slots))
    if name in SYMMETRIC:
        other = rows[:, 1] // 8 if name == "block_direction" else rows[:, 1]
        rows = rows[rows[:, 0] < other]
    return rows


def margins(
    episodes: Episodes,
    name: str,
    rows: Int[np.ndarray, "... 2"],
    episode: Int[np.ndarray, "..."],
    t: Int[np.ndarray, "..."],
    later: Int[np.ndarray, "..."],
) -> Float[np.ndarray, "..."]:
    """Signed margin in metres of questions about frames `later`, started at `t`.

    Args:
      episodes: where the poses are.
      name: question type.
      rows: arguments by slot; the leading axes of all arrays broadcast.
      episode, t, later: which frames.
    """
    if domain_of(name) == "cube":
        return _cube_margins(episodes, name, rows, episode, t, later)
    index = ALL_TYPES.index(name)
    change, peg = name in CHANGE_TYPES, "peg" in name
    first, second = rows[..., 0], rows[..., 1]
    split = name == "block_direction"
    other, k = (second // 8, second % 8) if split else (second, second)

    def block(slot, frame, used):
        return episodes.block_pose[episode, frame, slot, :2] if used else None

    use_a, use_b = USES_A[index], USES_B[index]
    points = Points(
        a0=block(first, t, use_a and change),
        a=block(first, later, use_a),
        b0=block(other, t, use_b and change),
        b=block(other, later, use_b),
        peg0=episodes.peg[episode, t] if peg and change else None,
        peg=episodes.peg[episode, later] if peg else None,
    )
    return RULES[name](points, k)


def with_tables(episodes: Episodes) -> Episodes:
    """The same episodes with what costs much to say about a frame worked out once.

    How far boxes are apart takes fifteen axes; a sampler asks the same of a frame many
    times. Cubes are few, so all answers about states fit: 30 numbers per frame.
    """
    if getattr(episodes, "domain", "board") != "cube":
        return episodes
    shape = episodes.block_pose.shape[:2]
    slots, frames = episodes.block_id.shape[-1], np.arange(shape[1])
    plain = types.SimpleNamespace(
        domain="cube",
        length=episodes.length,
        block_pose=episodes.block_pose,
        gripper=episodes.gripper,
        action=episodes.action,
        block_id=episodes.block_id,
        tables={},
    )
    tables = {}
    for name in CUBE_RULES:
        if name not in CHANGE_TYPES:
            rows = type_arguments(name, range(slots))
            table = np.full((*shape, slots, slots), np.nan, np.float32)
            for e in range(shape[0]) if len(rows) else ():
                value = _cube_margins(plain, name, rows, e, 0, frames[:, None])
                table[e][:, rows[:, 0], rows[:, 1]] = value
            tables[name] = table
    plain.tables = tables
    return plain


def _cube_margins(episodes, name, rows, episode, t, later):
    table = getattr(episodes, "tables", {}).get(name)
    if table is not None:
        return table[episode, later, rows[..., 0], rows[..., 1]]
    change = name in CHANGE_TYPES
    second = USES_B[ALL_TYPES.index(name)]

    def cube(slot, frame, used):
        return episodes.block_pose[episode, frame, slot] if used else None

    poses = Poses(
        a0=cube(rows[..., 0], t, change),
        a=cube(rows[..., 0], later, True),
        b0=cube(rows[..., 1], t, second and change),
        b=cube(rows[..., 1], later, second),
        gripper0=episodes.gripper[episode, t] if change else None,
        gripper=episodes.gripper[episode, later],
    )
    value = CUBE_RULES[name](poses)
    return np.broadcast_to(value, np.broadcast(rows[..., 0], episode, later).shape)


def name_blocks(
    type_id: Int[np.ndarray, "..."],
    rows: Int[np.ndarray, "... 2"],
    block_id: Int[np.ndarray, "... s"],
    swap: Bool[np.ndarray, "..."],
) -> Int[np.ndarray, "... 2"]:
    """Arguments as `Question.args`: block ids for slots; `swap` takes the twin."""
    first, other, direction = predicates.arguments(type_id, rows)
    side = type_id == ALL_TYPES.index("block_direction")
    pair = np.array(USES_B)[type_id]
    swap = swap & np.isin(ALL_TYPES, SYMMETRIC)[type_id]
    last = block_id.shape[-1] - 1
    named = lambda slot: np.take_along_axis(
        block_id, np.clip(slot, 0, last)[..., None], -1
    )[..., 0]
    a = named(np.where(swap, other, first))
    b = named(np.where(swap, first, other))
    direction = np.where(swap, (direction + 4) % 8, direction)
    tail = np.where(side, b * 8 + direction, np.where(pair, b, direction))
    return np.stack([np.where(first < 0, -1, a), tail], -1).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Pools:
    """Starts, and which cells each of them can serve.

    Attributes:
      episode, t: int32[M], the starts.
      horizon: int32[M, K], the horizon of each bucket at which a start was looked
        at; -1 where the episode ends before.
      has: bool[M, types, K, 2, 2], whether a start has a question of a type with an
        answer at its horizon of a bucket; last axis: the answer differs from now.
      types: names of the types, those of the episodes' domain.
    """

    episode: Int[np.ndarray, " M"]
    t: Int[np.ndarray, " M"]
    horizon: Int[np.ndarray, "M K"]
    has: Bool[np.ndarray, "M types K 2 2"]
    types: tuple[str, ...]

    @property
    def first_id(self) -> int:
        """Index of the first type in `ALL_TYPES`."""
        return ALL_TYPES.index(self.types[0])

    @property
    def is_change(self) -> Bool[np.ndarray, " types"]:
        """Which types compare the horizon with the present."""
        return np.isin(self.types, CHANGE_TYPES)

    def sizes(self) -> Int[np.ndarray, "types K 2 2"]:
        """Number of starts of every cell."""
        return self.has.sum(0)


def build_pools(
    episodes: Episodes, horizons: Horizons, most: int | None, seed: int = 0
) -> Pools:
    """Looks at starts spread over all episodes, one horizon per bucket each.

    Args:
      episodes: where the poses are.
      horizons: the buckets.
      most: look at this many starts at most, chosen at random; None at all.
      seed: of the choice.

    Raises:
      ValueError: no episode has an action.
    """
    length = np.asarray(episodes.length)
    starts = np.stack(
        [np.repeat(np.arange(len(length)), length), _ranges(length)], -1
    ).astype(np.int32)
    if not len(starts):
        raise ValueError(f"no starts: {len(length)} episodes hold no action")
    rng = np.random.default_rng(seed)
    if most is not None and most < len(starts):
        starts = starts[np.sort(rng.choice(len(starts), most, replace=False))]
    episode, t = starts.T
    room = length[episode] - t
    horizon = np.stack(
        [
            horizons.draw(rng, room, np.zeros_like(room), only=k)
            for k in range(len(horizons.ends))
        ],
        -1,
    )
    parts = [slice(low, low + _CHUNK) for low in range(0, len(starts), _CHUNK)]
    domain = getattr(episodes, "domain", "board")
    has = [
        _cells_of_starts(episodes, domain, episode[p], t[p], horizon[p]) for p in parts
    ]
    return Pools(episode, t, horizon, np.concatenate(has), DOMAINS[domain])


def _ranges(length):
    """0..l-1 for every l of `length`, one after the other."""
    total = np.cumsum(length)
    return np.arange(total[-1] if len(total) else 0) - np.repeat(total - length, length)


def _cells_of_starts(episodes, domain, episode, t, horizon):
    """bool[m, types, K, 2, 2]: which cells each start has a query for."""
    m, buckets = horizon.shape
    names, slots = DOMAINS[domain], episodes.block_id.shape[-1]
    has = np.zeros((m, len(names), buckets, 2, 2), bool)
    e, t = episode[:, None], t[:, None]
    for index, name in enumerate(names):
        rows, change = slot_questions(name, slots), name in CHANGE_TYPES
        if not len(rows):  # one cube has no pairs
            continue
        if not change:
            now = margins(episodes, name, rows, e, t, t) > 0
        for k in range(buckets):
            h = horizon[:, k : k + 1]
            if k == 0 and change:
                continue
            yes = margins(episodes, name, rows, e, t, t + np.maximum(h, 0)) > 0
            turned = np.zeros_like(yes) if change or k == 0 else yes != now
            for answer in (0, 1):
                for changed in (0, 1):
                    hit = (yes == answer) & (turned == changed) & (h >= 0)
                    has[:, index, k, answer, changed] = hit.any(-1)
    return has
