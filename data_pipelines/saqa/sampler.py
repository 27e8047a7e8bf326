"""Sampler of tuples (state, actions, question, answer) from stored episodes.

A batch has B starts with Q questions each and R queries (question, horizon) about
them. It is a pure function of (seed, step), so that a resumed run sees the same
stream, and balanced over type x answer within horizon buckets:

1. Most starts are drawn from the pool of a random cell, so that rare answers have
   images in which they occur (`pools`).
2. For each start, types and buckets are drawn, mostly those that offer several
   answers; then an answer; then a question with that answer, with preference for one
   whose answer differs from the present one, and in some cases for one near its
   threshold.
3. Every question is evaluated at extra horizons, and queries of cells that are rare
   so far fill the remaining places.

The weights of all draws are measured on the data set (`balance`).

Axes: B starts, Q questions, R queries, P proposals, E extra horizons, K buckets,
C answers of the type that has most.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.saqa import balance as saqa_balance
from data_pipelines.saqa.batch import SaqaBatch, SaqaConfig
from data_pipelines.saqa.horizons import Horizons, horizons_of
from data_pipelines.saqa.pools import build_pools
from data_pipelines.saqa.slots import (
    Episodes,
    language_of,
    margins,
    name_objects,
    slot_questions,
    with_tables,
)
from swm_jax.arrays import Array
from swm_jax.envs.scene import array_namespace
from swm_jax.models import MAX_ARGS
from swm_jax.questions.types import answer_index

SPARE = 1.35  # proposals per question, as duplicates are dropped


class SaqaSampler:
    """Sampler of batches from the episodes of one split.

    Attributes:
      episodes, config, horizons: as given.
      pools: starts at which each kind of answer occurs.
      language: of the episodes' world.
      named: those of `config.types` that the world has; None if it has none of them.
      types: the question types in use.
      is_change: bool[types], whether a type compares with the present.
      anchors, anchor_weights: rare cells with their starts, and how often each is
        drawn.
    """

    def __init__(
        self,
        episodes: Episodes,
        config: SaqaConfig | None = None,
        horizons: Horizons | None = None,
    ):
        self.episodes, self.config = episodes, config or SaqaConfig()
        self.horizons = horizons or horizons_of(Horizons.longest, self.config.buckets)
        self.language = language_of(episodes)
        # All sources of a mixture share one list: take the types of this world.
        own = self.language.by_name
        self.named = tuple(n for n in self.config.types or () if n in own) or None
        self.types = self.language.select(self.named)
        self._asked = with_tables(episodes)
        self.pools = build_pools(
            self._asked, self.types, self.horizons, self.config.pool_starts
        )
        self.is_change, self._edges = self.pools.is_change, self.pools.edges
        self._slots = int(np.asarray(episodes.block_id).shape[-1])
        self.anchors, self.anchor_weights = self._rare_cells()
        self._balances = {}

    def sample_batch(
        self, seed: int, step: int, images: int, questions: int, queries: int
    ) -> SaqaBatch:
        """The batch of a step: `images` starts B, `questions` Q, `queries` R each.

        The first call with another Q or R measures the balance (about a second).

        Raises:
          ValueError: fewer queries than questions.
        """
        if not 1 <= questions <= queries:
            raise ValueError(
                f"{queries} queries cannot cover {questions} questions per image"
            )
        balance = self.balance(questions, queries)
        return self.draw(_generator(seed, step), balance, images, questions, queries)

    def balance(self, questions: int, queries: int) -> saqa_balance.Balance:
        """Weights that balance the answers in batches of this shape, cached."""
        shape = (questions, queries)
        if shape not in self._balances:
            self._balances[shape] = saqa_balance.calibrate(self, *shape)
        return self._balances[shape]

    def _rare_cells(self):
        """Starts of each usable cell, and weights in favour of scarce types."""
        has = self.pools.has
        some = has.any(-1)  # [M, types, K, C]
        several = some.sum(-1) > 1
        answers = some.any(0).sum(-1)
        usable = has.any(0) & (answers > 1)[..., None, None]
        scarcity = 1.0 / (several.mean((0, 2)) + 0.1)
        shares = np.array(self.horizons.shares)[:, None, None]
        weights = usable * scarcity[:, None, None, None] * shares
        # A type with many bins gets the same total weight as a yes/no type.
        weights = weights * (2 / np.maximum(answers, 1))[..., None, None]
        weights = weights / np.maximum(usable.sum(-1, keepdims=True), 1)
        cells = list(zip(*np.nonzero(usable)))
        anchors = [(cell, np.flatnonzero(has[:, *cell])) for cell in cells]
        return anchors, weights[usable] / max(weights.sum(), 1e-9)

    def starts(
        self, rng: np.random.Generator, images: int
    ) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, "B 4"]]:
        """Rows of the pools, and the cell that each was drawn for (-1: none)."""
        row = rng.integers(0, len(self.pools.t), images)
        cell = np.full((images, 4), -1)
        chosen = rng.random(images) < self.config.anchor_share
        u = rng.random(images)
        if self.anchors:
            picks = rng.choice(len(self.anchors), images, p=self.anchor_weights)
            for b in np.flatnonzero(chosen):
                cell[b], members = self.anchors[picks[b]]
                row[b] = members[int(u[b] * len(members))]
        return row, cell

    def draw(
        self,
        rng: np.random.Generator,
        balance: "saqa_balance.Balance",
        images: int,
        questions: int,
        queries: int,
    ) -> SaqaBatch:
        """A batch from a generator and given weights; see `sample_batch`."""
        row, cell = self.starts(rng, images)
        episode, t = self.pools.episode[row], self.pools.t[row]
        kind, k = self._kinds(rng, balance, row, cell, questions)
        rows, index = self._questions(rng, balance, row, cell, kind, k)
        keep = _first_of_each(kind * 1000 + index)  # a type has fewer than 1000 rows
        keep &= kind >= 0
        # Stable sort: distinct questions first, in the order proposed.
        picked = np.argsort(~keep, axis=-1, kind="stable")[:, :questions]
        b = np.arange(images)[:, None]
        valid = keep[b, picked]
        picked = np.where(valid, picked, picked[:, :1])
        kind, k, rows = kind[b, picked], k[b, picked], rows[b, picked]
        h = self._horizons(rng, row, kind, k)
        value, now = self._margins(episode, t, kind, rows, h)
        edges = self._edges[kind][:, :, None]
        answer, now = answer_index(value, edges), answer_index(now, edges)
        usable = valid[..., None] & _first_of_each(h) & (h >= 0)
        best, query_valid = self._race(
            rng, balance, kind, h, answer, now, usable, queries
        )
        query_question, slot = best // h.shape[-1], best % h.shape[-1]
        block_id = np.asarray(self.episodes.block_id)[episode][:, None]
        block_id = np.broadcast_to(block_id, (images, questions, self._slots))
        swap = rng.random(valid.shape) < 0.5
        swap = np.where(valid, swap, swap[:, :1])
        phrasing = rng.integers(1, self.language.phrasings, valid.shape)
        phrasing *= rng.random(valid.shape) >= self.config.canonical_share
        clean = lambda x: np.where(query_valid, x, 0).astype(np.int32)
        type_id = self.pools.type_id[kind]
        margin = value[b, query_question, slot]
        return SaqaBatch(
            episode=episode.astype(np.int32),
            t=t.astype(np.int32),
            actions=self._actions(episode, t),
            type_id=type_id,
            args=np.asarray(name_objects(self.language, type_id, rows, block_id, swap)),
            phrasing=np.where(valid, phrasing, phrasing[:, :1]).astype(np.int32),
            question_valid=valid,
            query_question=clean(query_question),
            query_horizon=clean(h[b, query_question, slot]),
            query_answer=clean(answer[b, query_question, slot]),
            query_now=clean(now[b, query_question, 0]),
            query_margin=np.where(query_valid, margin, 0).astype(np.float32),
            query_type=type_id[b, clean(query_question)],
            query_valid=query_valid,
            language=self.language,
        )

    def _kinds(self, rng, balance, row, cell, questions):
        """Types and buckets [B, P] of the proposals; the anchor comes first."""
        weights = balance.proposal_weights(self.pools.has[row])
        images, types, buckets = weights.shape
        total = np.cumsum(weights.reshape(images, -1), -1)
        total /= np.maximum(total[:, -1:], 1e-9)
        count = int(np.ceil(questions * SPARE)) + 1
        # Stratified: one draw in each P-th of the unit interval, in random order, so
        # that the numbers of types per image vary little.
        u = (np.arange(count) + rng.random((images, count))) / count
        u = rng.permuted(u, axis=-1)
        found = (total[:, None, :] <= u[..., None]).sum(-1)
        found = np.minimum(found, types * buckets - 1)
        kind, k = found // buckets, found % buckets
        anchored = cell[:, 0] >= 0
        kind[:, 0] = np.where(anchored, cell[:, 0], kind[:, 0])
        k[:, 0] = np.where(anchored, cell[:, 1], k[:, 0])
        kind[total[:, -1] <= 0, 1:] = -1
        return kind, k

    def _questions(self, rng, balance, row, cell, kind, k):
        """Arguments by slot [B, P, 3] and their rows [B, P] in `slot_questions`."""
        u = rng.random((3, *kind.shape))
        offered = np.asarray(self.pools.has[row].any(-1))[
            np.arange(len(row))[:, None], kind, k
        ]
        want = wanted_answer(u[0], balance.want[kind, k], offered)
        turn = u[1] < self.config.change_share
        anchored = cell[:, 0] >= 0
        want[:, 0] = np.where(anchored, cell[:, 2], want[:, 0])
        turn[:, 0] = np.where(anchored, cell[:, 3], turn[:, 0])
        hard = u[2] < self.config.hard_share
        rows = np.full((*kind.shape, MAX_ARGS), -1)
        index = np.zeros(kind.shape, int)
        for i in np.unique(kind[kind >= 0]):
            b, p = np.nonzero(kind == i)
            start, h = row[b], self.pools.horizon[row[b], k[b, p]]
            found = self._choose(rng, i, start, h, want[b, p], turn[b, p], hard[b, p])
            index[b, p], rows[b, p] = found, self._rows_of(i)[found]
        return rows, index

    def _rows_of(self, type_index):
        return slot_questions(self.types[type_index], self._slots)

    def _choose(self, rng, type_index, row, h, want, turn, hard):
        """Row of a question with the wanted answer for each of n proposals."""
        asked, rows = self.types[type_index], self._rows_of(type_index)
        e, t = self.pools.episode[row][:, None], self.pools.t[row][:, None]
        value = margins(self._asked, asked, rows, e, t, t + h[:, None])
        answer = asked.answers.index(value)
        fits = answer == want[:, None]
        fits |= ~fits.any(-1, keepdims=True)
        if not self.is_change[type_index]:
            now = margins(self._asked, asked, rows, e, t, t)
            changed = answer != asked.answers.index(now)
            better = fits & (changed == turn[:, None])
            fits = np.where(better.any(-1, keepdims=True), better, fits)
        score = rng.random(value.shape, np.float32)
        edges = np.array(asked.answers.edges, np.float32)
        # Nearest to a threshold, up to 1 cm of noise, so that one question of an image
        # is not drawn every time.
        near = 0.01 * score - np.abs(value[..., None] - edges).min(-1)
        score = np.where(hard[:, None], near, score)
        return np.where(fits, score, -np.inf).argmax(-1)

    def _horizons(self, rng, row, kind, k):
        """First and extra horizons [B, Q, 1 + E], -1 where there is none."""
        room = self.episodes.length[self.pools.episode[row]] - self.pools.t[row]
        shape = (*kind.shape, self.config.extra)
        extra = self.horizons.draw(
            rng,
            np.broadcast_to(room[:, None, None], shape),
            np.broadcast_to(self.is_change[kind][..., None].astype(int), shape),
        )
        first = self.pools.horizon[row[:, None], k]
        return np.concatenate([first[..., None], extra], -1)

    def _margins(self, episode, t, kind, rows, h):
        """Margins at the horizons [B, Q, 1 + E], and now [B, Q, 1]."""
        value = np.zeros(h.shape, np.float32)
        now = np.full((*kind.shape, 1), -1.0, np.float32)
        for i in np.unique(kind[kind >= 0]):
            b, q = np.nonzero(kind == i)
            e, start, asked = episode[b][:, None], t[b][:, None], rows[b, q][:, None]
            later = start + np.maximum(h[b, q], 0)
            value[b, q] = margins(self._asked, self.types[i], asked, e, start, later)
            if not self.is_change[i]:
                now[b, q] = margins(self._asked, self.types[i], asked, e, start, start)
        return value, now

    def _race(self, rng, balance, kind, h, answer, now, usable, queries):
        """Indices [B, R] into Q x (1 + E) of the queries of a batch.

        First horizons are always included. The other places are a weighted draw
        without replacement, by the smallest exponential waiting times, with the
        weights of the queries' cells as rates.
        """
        changed = ~self.is_change[kind][..., None] & (answer != now)
        speed = balance.query_weights[
            kind[..., None],
            self.horizons.bucket[np.maximum(h, 0)],
            answer,
            changed.astype(int),
        ]
        time = rng.standard_exponential(h.shape) / np.maximum(speed, 1e-6)
        time[..., 0] = -1.0  # first horizons before all others
        time = np.where(usable, time, np.inf).reshape(len(h), -1)
        if time.shape[1] < queries:
            pad = ((0, 0), (0, queries - time.shape[1]))
            time = np.pad(time, pad, constant_values=np.inf)
        best = np.argsort(time, axis=-1)[:, :queries]
        valid = np.isfinite(np.take_along_axis(time, best, -1))
        return np.where(valid, best, 0), valid

    def _actions(self, episode, t):
        """The next H actions of each start, zeros after the episode's end."""
        index = t[:, None] + np.arange(self.horizons.longest)
        inside = index < np.asarray(self.episodes.length)[episode][:, None]
        index = np.minimum(index, self.episodes.action.shape[1] - 1)
        actions = self.episodes.action[episode[:, None], index]
        return np.where(inside[..., None], actions, 0).astype(np.float32)


def wanted_answer(
    u: Float[Array, "..."],
    weights: Float[Array, "... C"],
    offered: Bool[Array, "... C"],
) -> Int[Array, "..."]:
    """Answer drawn by weight among those that an image offers, or of all if none.

    Args:
      u: uniform random number in 0..1; small ones give high answers.
      weights: of the answers, 0 where a type has fewer.
      offered: whether the image has a question with an answer.
    """
    xp = array_namespace(u, weights, offered)
    offered = offered | ~offered.any(-1, keepdims=True)
    total = xp.cumsum(xp.where(offered, weights, 0.0)[..., ::-1], -1)
    below = (u * total[..., -1])[..., None] >= total[..., :-1]
    return weights.shape[-1] - 1 - below.sum(-1)


def _generator(seed, step):
    return np.random.Generator(np.random.Philox(key=[seed, step]))


def _first_of_each(values):
    """False where a value repeats an earlier one on the last axis."""
    same = values[..., :, None] == values[..., None, :]
    return ~np.tril(same, -1).any(-1)
