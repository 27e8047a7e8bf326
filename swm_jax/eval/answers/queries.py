"""Balanced questions about held-out episodes, and a baseline from the question alone.

Every question of the language is answered exactly at every horizon of every start. From
this pool equal numbers of yes and no are drawn within each question type and horizon,
so that neither type nor horizon predicts the answer. Numeric types, if selected, are
balanced over their bins as far as they occur.

Axes: E episodes, S starts (episode and step), K horizons, G questions of the table,
n drawn queries, Q questions kept per start.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from swm_jax.envs import AnyScene
from swm_jax.eval.answers.held_out import HeldOut
from swm_jax.questions import Language, QuestionTable

STARTS = 3  # per episode
PER_START = 64  # questions about one start, at most


@dataclasses.dataclass(frozen=True)
class Queries:
    """Questions about starts of held-out episodes, with exact answers.

    Attributes:
      scene: scene with leading axis S, the start frames.
      actions: float32[S, H, A], the actions after each start.
      episode: int32[S].
      horizons: K numbers, 0 first.
      table: the questions that indices below point into.
      asked: int32[S, Q] into the table, padded with repeats.
      start, horizon, column: int32[n], a query is (start, horizons[horizon],
        asked[start, column]).
      truth: int32[n], index of the true answer; 1 is yes.
      margin: float32[n], value of the type's rule, in metres.
      pool: int8[S, K, G], the answer to every question.
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
    truth: Int[np.ndarray, " n"]
    margin: Float[np.ndarray, " n"]
    pool: Int[np.ndarray, "S K G"]

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
        """Fold of each query, 0 or 1: even and odd episodes."""
        return self.episode[self.start] % 2


def ask_horizons(longest: int, count: int = 5) -> tuple[int, ...]:
    """0 and `count - 1` horizons spread evenly up to the longest."""
    return tuple(sorted({round(longest * i / (count - 1)) for i in range(count)}))


def draw_queries(
    held: HeldOut,
    language: Language,
    horizons: tuple[int, ...],
    limit: int,
    seed: int = 0,
    types: Sequence[str] | None = None,
) -> Queries:
    """Draws at most `limit` balanced queries about `STARTS` steps of each episode.

    Args:
      held: the episodes.
      language: of their world.
      horizons: K numbers, 0 first.
      limit: queries.
      seed: of the draw.
      types: names of the question types; None for the default ones.

    Raises:
      ValueError: episodes shorter than the longest horizon, or an unknown type.
    """
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
    table = language.table(np.asarray(scene.block_id[0]).tolist(), types)
    margin = np.stack([margins(table, scene, at(h)) for h in horizons], 1)
    pool = language.index(table.type_id, margin).astype(np.int8)
    drawn = _balance(pool, table, limit, rng)
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
        margin=margin[start, horizon, row][kept],
        pool=np.asarray(pool),
    )


def margins(
    table: QuestionTable, now: AnyScene, later: AnyScene
) -> Float[np.ndarray, "S G"]:
    """Values of every question's rule on every pair of scenes, in metres."""
    return np.asarray(_margins(table, now, later))


@jax.jit
def _margins(table, now, later):
    now, later = jax.tree.map(lambda x: x[:, None], (now, later))
    return table.language.margin(table.type_id, table.args, now, later)


def _balance(pool, table, limit, rng):
    """Yields (s, k, g, truth) arrays with equal numbers of answers per (type, horizon).

    Yes and no are both limited by the count of the rarer one; bins only by their own.
    """
    kinds, horizons = np.unique(table.type_id), range(pool.shape[1])
    for kind in kinds:
        rows = np.flatnonzero(table.type_id == kind)
        answers = table.language.kind(int(kind)).answers
        share = max(limit // (len(answers) * len(kinds) * len(horizons)), 1)
        for k in horizons:
            every = [
                np.argwhere(pool[:, k, rows] == truth) for truth in range(len(answers))
            ]
            most = share if answers.numeric else min(share, *map(len, every))
            for truth, cases in reversed(list(enumerate(every))):
                size = min(most, len(cases))
                pick = cases[rng.permutation(len(cases))[:size]]
                yield (
                    pick[:, 0],
                    np.full(size, k),
                    rows[pick[:, 1]],
                    np.full(size, truth, np.int32),
                )


def _columns(start, row, starts):
    """Questions of each start, column of each drawn one, and which were kept.

    A start has `PER_START` distinct questions at most; queries of others are dropped.
    """
    lists = [np.unique(row[start == s])[:PER_START] for s in range(starts)]
    width = max(map(len, lists))
    asked = np.stack([np.resize(x if len(x) else [0], width) for x in lists])
    column, kept = np.zeros(len(row), int), np.zeros(len(row), bool)
    for i, (s, g) in enumerate(zip(start, row)):
        column[i] = min(np.searchsorted(lists[s], g), width - 1)
        kept[i] = lists[s][min(column[i], len(lists[s]) - 1)] == g
    return asked.astype(np.int32), column, kept


def guess_from_question(queries: Queries) -> Bool[np.ndarray, " n"]:
    """Baseline answers from question and horizon alone: the more common one.

    The frequency of yes is counted over the pool of one half of the episodes, with yes
    and no weighted equally within a type and horizon, and applied to the other half.
    Image and actions are not used.
    """
    kinds = queries.table.type_id
    leaning = np.zeros((2, *queries.pool.shape[1:]))  # > 0 where yes is likelier
    for fold in (0, 1):
        known = queries.pool[queries.episode % 2 != fold] > 0
        yes, no = known.sum(0) + 0.5, (~known).sum(0) + 0.5  # smoothed counts
        for kind in np.unique(kinds):
            inside = kinds == kind
            share = [x[:, inside] / x[:, inside].sum(1)[:, None] for x in (yes, no)]
            leaning[fold][:, inside] = share[0] - share[1]
    return leaning[queries.fold, queries.horizon, queries.question] > 0
