"""Pools: the starts at which each kind of answer occurs in stored episodes.

A *start* is a frame of an episode from which actions are taken. A *cell* is a kind of
query: (question type, horizon bucket, answer, changed), where `changed` marks a
question about a state whose answer at the horizon differs from the present one, so
that the image alone misleads. A pool lists the starts with at least one query of a
cell.

Axes: N episodes, M starts, K buckets, C answers of the type that has most.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.saqa.horizons import Horizons
from data_pipelines.saqa.slots import Episodes, margins, slot_questions
from swm_jax.questions import QuestionType
from swm_jax.questions.language import edge_table

_CHUNK = 2000  # starts evaluated at once


@dataclasses.dataclass(frozen=True)
class Pools:
    """Starts, and the cells of which each has a query.

    Attributes:
      episode, t: int32[M], the starts.
      horizon: int32[M, K], the horizon evaluated in each bucket; -1 where the episode
        ends before.
      has: bool[M, types, K, C, 2], whether a start has a question of a type with an
        answer at its horizon of a bucket; last axis: the answer differs from now.
      types: the question types, by ascending id.
    """

    episode: Int[np.ndarray, " M"]
    t: Int[np.ndarray, " M"]
    horizon: Int[np.ndarray, "M K"]
    has: Bool[np.ndarray, "M types K C 2"]
    types: tuple[QuestionType, ...]

    @property
    def type_id(self) -> Int[np.ndarray, " types"]:
        """Ids of the types."""
        return np.array([kind.id for kind in self.types], np.int32)

    @property
    def is_change(self) -> Bool[np.ndarray, " types"]:
        """True for types that compare the horizon with the present."""
        return np.array([kind.about_change for kind in self.types])

    @property
    def edges(self) -> Float[np.ndarray, "types edges"]:
        """Edges of each type's answer set, padded with infinity."""
        return edge_table(self.types)[self.type_id]

    def sizes(self) -> Int[np.ndarray, "types K C 2"]:
        """Number of starts of every cell."""
        return self.has.sum(0)


def build_pools(
    episodes: Episodes,
    types: Sequence[QuestionType],
    horizons: Horizons,
    most: int | None,
    seed: int = 0,
) -> Pools:
    """Evaluates all questions at random starts, at one horizon per bucket.

    Args:
      episodes: stored poses.
      types: question types.
      horizons: the buckets.
      most: number of starts at most, drawn at random; None for all.
      seed: of the draw.

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
    has = [
        _cells_of_starts(episodes, types, episode[p], t[p], horizon[p]) for p in parts
    ]
    return Pools(episode, t, horizon, np.concatenate(has), tuple(types))


def _ranges(length):
    """Concatenation of arange(l) for every l of `length`."""
    total = np.cumsum(length)
    return np.arange(total[-1] if len(total) else 0) - np.repeat(total - length, length)


def _cells_of_starts(episodes, types, episode, t, horizon):
    """bool[m, types, K, C, 2]: whether each start has a query of a cell."""
    m, buckets = horizon.shape
    slots = episodes.block_id.shape[-1]
    most = max(len(kind.answers) for kind in types)
    has = np.zeros((m, len(types), buckets, most, 2), bool)
    e, t = episode[:, None], t[:, None]
    for index, kind in enumerate(types):
        rows, change = slot_questions(kind, slots), kind.about_change
        if not len(rows):  # a type about pairs, in a world with one object
            continue
        now = None
        if not change:
            now = kind.answers.index(margins(episodes, kind, rows, e, t, t))
        for k in range(buckets):
            h = horizon[:, k : k + 1]
            if k == 0 and change:  # nothing changes in 0 steps
                continue
            value = margins(episodes, kind, rows, e, t, t + np.maximum(h, 0))
            answers = kind.answers.index(value)
            same = now is None or k == 0
            turned = np.zeros_like(answers) if same else answers != now
            for answer in range(len(kind.answers)):
                for changed in (0, 1):
                    hit = (answers == answer) & (turned == changed) & (h >= 0)
                    has[:, index, k, answer, changed] = hit.any(-1)
    return has
