"""Balanced questions about held-out episodes, and what guesses without looking.

Every question of the grammar is judged at every horizon of every start; from that
pool as many yes as no are drawn within each question type and horizon, so that
neither gives the answer away.

Axes: E episodes, S starts (episode and step), K horizons, G questions of the table,
n drawn queries, Q questions kept per start.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from swm_jax import worlds
from swm_jax.envs import AnyScene
from swm_jax.eval.answers.held_out import HeldOut
from swm_jax.questions import QuestionTable, predicates

STARTS = 3  # per episode
PER_START = 64  # questions about one start, at most


@dataclasses.dataclass(frozen=True)
class Queries:
    """What a world model is asked.

    Attributes:
      scene: scene with leading axis S, the start frames.
      actions: float32[S, H, A], what was done from there on.
      episode: int32[S].
      horizons: K numbers, 0 first.
      table: the questions that indices below point into.
      asked: int32[S, Q] into the table, padded with repeats.
      start, horizon, column: int32[n], a query is (start, horizons[horizon],
        asked[start, column]).
      truth: bool[n].
      pool: bool[S, K, G], the answer to every question.
    """

    scene: AnyScene
    actions: Float[np.ndarray, "S H A"]
    episode: Int[np.ndarray, " S"]
    horizons: tuple[int, ...]
    table: QuestionTable
    asked: Int[np.ndarray, "S Q"]
    start: Int[np.ndarray, " n"]
    horizon: Int[np.ndarray, " n"]
    column: Int[np.ndarray, " n"]
    truth: Bool[np.ndarray, " n"]
    pool: Bool[np.ndarray, "S K G"]

    @property
    def question(self) -> Int[np.ndarray, " n"]:
        """Row of the table of each query."""
        return self.asked[self.start, self.column]

    @property
    def type_id(self) -> Int[np.ndarray, " n"]:
        """Question type of each query."""
        return self.table.type_id[self.question]

    @property
    def fold(self) -> Int[np.ndarray, " n"]:
        """Episodes in two halves: 0 or 1."""
        return self.episode[self.start] % 2


def ask_horizons(longest: int, count: int = 5) -> tuple[int, ...]:
    """0 and `count - 1` horizons spread evenly up to the longest."""
    return tuple(sorted({round(longest * i / (count - 1)) for i in range(count)}))


def draw_queries(
    held: HeldOut, horizons: tuple[int, ...], limit: int, seed: int = 0
) -> Queries:
    """Draws at most `limit` balanced queries about `STARTS` steps of each episode."""
    rng = np.random.default_rng(seed)
    longest = max(horizons)
    long_enough = np.flatnonzero(held.length >= longest)
    if not len(long_enough):
        raise ValueError(
            f"episodes of at most {max(held.length, default=0)} steps, but horizon "
            f"{longest} is asked"
        )
    episode = np.repeat(long_enough, STARTS)
    first = rng.integers(0, held.length[episode] - longest + 1)
    at = lambda offset: jax.tree.map(
        lambda x: np.asarray(x)[episode, first + offset], held.scenes
    )
    actions = np.stack([held.actions[episode, first + t] for t in range(longest)], 1)
    scene = at(0)
    blocks = tuple(np.asarray(scene.block_id[0]).tolist())
    table = worlds.load(held.world).language.table(blocks)
    pool = np.stack([answers(table, scene, at(h)) for h in horizons], 1)
    drawn = _balance(pool, table.type_id, limit, rng)
    start, horizon, row, truth = (np.concatenate(x) for x in zip(*drawn))
    asked, column, kept = _columns(start, row, len(episode))
    return Queries(
        scene=scene,
        actions=actions,
        episode=episode,
        horizons=horizons,
        table=table,
        asked=asked,
        start=start[kept],
        horizon=horizon[kept],
        column=column[kept],
        truth=truth[kept],
        pool=pool,
    )


def answers(
    table: QuestionTable, now: AnyScene, later: AnyScene
) -> Bool[np.ndarray, "S G"]:
    """The true answer to every question about every pair of scenes."""
    return np.asarray(_answers(table.type_id, table.args, now, later))


@jax.jit
def _answers(type_id, args, now, later):
    now, later = jax.tree.map(lambda x: x[:, None], (now, later))
    return predicates.margin(type_id, args, now, later) > 0


def _balance(pool, type_id, limit, rng):
    """Equal numbers of yes and no per (type, horizon), as (s, k, g, truth) arrays."""
    kinds, horizons = np.unique(type_id), range(pool.shape[1])
    share = max(limit // (2 * len(kinds) * len(horizons)), 1)
    for kind in kinds:
        rows = np.flatnonzero(type_id == kind)
        for k in horizons:
            answer = pool[:, k, rows]
            yes, no = np.argwhere(answer), np.argwhere(~answer)
            for cases, truth in ((yes, True), (no, False)):
                size = min(share, len(yes), len(no))
                pick = cases[rng.permutation(len(cases))[:size]]
                yield (
                    pick[:, 0],
                    np.full(size, k),
                    rows[pick[:, 1]],
                    np.full(size, truth),
                )


def _columns(start, row, starts):
    """Where each drawn question stands among those asked of its start."""
    lists = [np.unique(row[start == s])[:PER_START] for s in range(starts)]
    width = max(map(len, lists))
    asked = np.stack([np.resize(x if len(x) else [0], width) for x in lists])
    column, kept = np.zeros(len(row), int), np.zeros(len(row), bool)
    for i, (s, g) in enumerate(zip(start, row)):
        column[i] = min(np.searchsorted(lists[s], g), width - 1)
        kept[i] = lists[s][min(column[i], len(lists[s]) - 1)] == g
    return asked.astype(np.int32), column, kept


def guess_from_question(queries: Queries) -> Bool[np.ndarray, " n"]:
    """Answers from question and horizon alone: which answer is more common for it?

    The share of yes is counted on one half of the episodes, all questions of the
    pool, as if yes and no were equally common within a type and horizon, and used
    on the other half. Nothing of the image or of the actions enters.
    """
    kinds = queries.table.type_id
    leaning = np.zeros((2, *queries.pool.shape[1:]))  # > 0 where yes is likelier
    for fold in (0, 1):
        known = queries.pool[queries.episode % 2 != fold]
        yes, no = known.sum(0) + 0.5, (~known).sum(0) + 0.5
        for kind in np.unique(kinds):
            inside = kinds == kind
            share = [x[:, inside] / x[:, inside].sum(1)[:, None] for x in (yes, no)]
            leaning[fold][:, inside] = share[0] - share[1]
    return leaning[queries.fold, queries.horizon, queries.question] > 0
