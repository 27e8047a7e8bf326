"""SAQA tuples (state, actions, question, answer) drawn from stored episodes.

A batch has B starts with Q questions each and R queries (question, horizon) about
them. It is a pure function of (seed, step), so that a resumed run sees the same
stream, and balanced over type x answer within horizon buckets:

1. Most starts are drawn from the pool of a cell that is itself drawn evenly, so that
   rare answers have images in which they occur (`saqa_pools`).
2. Each start gets questions of types and buckets for which it has both answers, and
   few others; then the answer wanted is drawn, then a question that has it: if
   possible one whose answer differs from the present one, sometimes the one nearest
   its threshold.
3. Every question is asked at more horizons; of all the answers found there, those of
   cells that are short of queries win the places left.

The weights of all that are measured on the data set itself (`saqa_balance`).

Axes: B starts, Q questions, R queries, P proposals, E extra horizons, K buckets.
"""

import dataclasses

import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int

from data_pipelines.saqa import balance as saqa_balance
from data_pipelines.saqa.horizons import Buckets, Horizons, horizons_of
from data_pipelines.saqa.pools import (
    Episodes,
    build_pools,
    margins,
    name_blocks,
    slot_questions,
    with_tables,
)
from swm_jax.questions import ALL_TYPES, NUM_PHRASINGS, Question
from swm_jax.records import Count, Share, Size

SPARE = 1.35  # proposals per question: the same one may be proposed twice


@dataclasses.dataclass(frozen=True)
class SaqaConfig:
    """What to ask, and how often.

    Attributes:
      buckets: of horizons, their shares, the planner's horizons, where they differ
        from what suits the model's longest horizon (`horizons_of`).
      anchor_share: starts chosen for a rare answer; the others are any start.
      change_share: among answers about a later state, how often to prefer one that
        differs from the present one.
      hard_share: how often to take the question nearest its threshold.
      canonical_share: questions in the canonical wording.
      extra: horizons proposed for each question besides its first.
      types: the question types asked; None for all.
      pool_starts: starts looked at when the pools are built; None for all.
    """

    buckets: Buckets = dataclasses.field(default_factory=Buckets)
    anchor_share: Share = 0.7
    change_share: Share = 0.5
    hard_share: Share = 0.3
    canonical_share: Share = 0.4
    extra: Size = 9
    types: tuple[str, ...] | None = None
    pool_starts: Count | None = 40_000

    def __post_init__(self):
        for name in self.types or ():
            if name not in ALL_TYPES:
                raise ValueError(f"unknown question type {name!r}, known: {ALL_TYPES}")


@struct.dataclass
class SaqaBatch:
    """A training batch without its pixels and tokens.

    Attributes:
      episode, t: int32[B], the starts: row of the episode, frame.
      actions: float32[B, H, A], zeros behind an episode's end.
      type_id: int32[B, Q]; args: int32[B, Q, 2]; phrasing: int32[B, Q].
      question_valid: bool[B, Q]; a padding question repeats the first.
      query_question: int32[B, R], index into Q.
      query_horizon: int32[B, R]; never beyond an episode's end.
      query_answer: int32[B, R], index into `ANSWERS`.
      query_now: int32[B, R], the answer to the same question at horizon 0.
      query_margin: float32[B, R], signed margin in metres.
      query_type: int32[B, R].
      query_valid: bool[B, R], False on padding queries.
    """

    episode: Int[np.ndarray, " B"]
    t: Int[np.ndarray, " B"]
    actions: Float[np.ndarray, "B H A"]
    type_id: Int[np.ndarray, "B Q"]
    args: Int[np.ndarray, "B Q 2"]
    phrasing: Int[np.ndarray, "B Q"]
    question_valid: Bool[np.ndarray, "B Q"]
    query_question: Int[np.ndarray, "B R"]
    query_horizon: Int[np.ndarray, "B R"]
    query_answer: Int[np.ndarray, "B R"]
    query_now: Int[np.ndarray, "B R"]
    query_margin: Float[np.ndarray, "B R"]
    query_type: Int[np.ndarray, "B R"]
    query_valid: Bool[np.ndarray, "B R"]

    def questions(self) -> list[list[Question]]:
        """The questions of every start; `.text` has their words."""
        return [
            [Question(ALL_TYPES[i], a, p) for i, a, p in zip(*row)]
            for row in zip(self.type_id, self.args, self.phrasing)
        ]


class SaqaSampler:
    """Draws batches; make one per split (episodes are split where they are stored).

    Attributes:
      episodes, config, horizons: as given.
      pools: where each kind of answer can be found.
      types: names of the types asked about, those of the episodes' domain.
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
        self._asked = with_tables(episodes)
        self.pools = build_pools(self._asked, self.horizons, self.config.pool_starts)
        self.types, self.is_change = self.pools.types, self.pools.is_change
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
        """The weights that even out batches of this shape."""
        shape = (questions, queries)
        if shape not in self._balances:
            self._balances[shape] = saqa_balance.calibrate(self, *shape)
        return self._balances[shape]

    def _rare_cells(self):
        """For each usable cell its starts; weights in favour of scarce types."""
        has = self.pools.has
        some = has.any(-1)  # [M, types, K, 2]
        both = some.all(-1)
        wanted = np.isin(self.types, self.config.types or self.types)
        usable = (
            has.any(0)
            & some.any(0).all(-1)[..., None, None]
            & wanted[:, None, None, None]
        )
        scarcity = 1.0 / (both.mean((0, 2)) + 0.1)
        shares = np.array(self.horizons.shares)[:, None, None]
        weights = usable * scarcity[:, None, None, None] * shares
        weights = weights / np.maximum(usable.sum(-1, keepdims=True), 1)
        cells = list(zip(*np.nonzero(usable)))
        anchors = [(cell, np.flatnonzero(has[:, *cell])) for cell in cells]
        return anchors, weights[usable] / max(weights.sum(), 1e-9)

    def starts(
        self, rng: np.random.Generator, images: int
    ) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, "B 4"]]:
        """Rows of the pools, and the cell that each was chosen for (-1: none)."""
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
        keep = _first_of_each(kind * 1000 + index)
        keep &= kind >= 0
        picked = np.argsort(~keep, axis=-1, kind="stable")[:, :questions]
        b = np.arange(images)[:, None]
        valid = keep[b, picked]
        picked = np.where(valid, picked, picked[:, :1])
        kind, k, rows = kind[b, picked], k[b, picked], rows[b, picked]
        h = self._horizons(rng, row, kind, k)
        value, now = self._margins(episode, t, kind, rows, h)
        usable = valid[..., None] & _first_of_each(h) & (h >= 0)
        best, query_valid = self._race(
            rng, balance, kind, h, value, now, usable, queries
        )
        query_question, slot = best // h.shape[-1], best % h.shape[-1]
        value = value[b, query_question, slot]
        block_id = np.asarray(self.episodes.block_id)[episode][:, None]
        block_id = np.broadcast_to(block_id, (images, questions, self._slots))
        swap = rng.random(valid.shape) < 0.5
        swap = np.where(valid, swap, swap[:, :1])
        phrasing = rng.integers(1, NUM_PHRASINGS, valid.shape)
        phrasing *= rng.random(valid.shape) >= self.config.canonical_share
        clean = lambda x: np.where(query_valid, x, 0).astype(np.int32)
        return SaqaBatch(
            episode=episode.astype(np.int32),
            t=t.astype(np.int32),
            actions=self._actions(episode, t),
            type_id=(kind + self.pools.first_id).astype(np.int32),
            args=name_blocks(kind + self.pools.first_id, rows, block_id, swap),
            phrasing=np.where(valid, phrasing, phrasing[:, :1]).astype(np.int32),
            question_valid=valid,
            query_question=clean(query_question),
            query_horizon=clean(h[b, query_question, slot]),
            query_answer=clean(value > 0),
            query_now=clean(now[b, query_question, 0] > 0),
            query_margin=np.where(query_valid, value, 0).astype(np.float32),
            query_type=(kind[b, clean(query_question)] + self.pools.first_id).astype(
                np.int32
            ),
            query_valid=query_valid,
        )

    def _kinds(self, rng, balance, row, cell, questions):
        """Types and buckets [B, P] of the proposals; the anchor comes first."""
        weights = balance.proposal_weights(self.pools.has[row])
        images, types, buckets = weights.shape
        total = np.cumsum(weights.reshape(images, -1), -1)
        total /= np.maximum(total[:, -1:], 1e-9)
        count = int(np.ceil(questions * SPARE)) + 1
        # One draw in each P-th of the unit interval, in random order: little noise.
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
        """Arguments by slot [B, P, 2] and their rows [B, P] in `slot_questions`."""
        u = rng.random((3, *kind.shape))
        want = u[0] < balance.want_yes[kind, k]
        turn = u[1] < self.config.change_share
        anchored = cell[:, 0] >= 0
        want[:, 0] = np.where(anchored, cell[:, 2], want[:, 0])
        turn[:, 0] = np.where(anchored, cell[:, 3], turn[:, 0])
        hard = u[2] < self.config.hard_share
        rows = np.full((*kind.shape, 2), -1)
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
        name, rows = self.types[type_index], self._rows_of(type_index)
        e, t = self.pools.episode[row][:, None], self.pools.t[row][:, None]
        value = margins(self._asked, name, rows, e, t, t + h[:, None])
        yes = value > 0
        fits = yes == want[:, None]
        fits |= ~fits.any(-1, keepdims=True)
        if not self.is_change[type_index]:
            changed = yes != (margins(self._asked, name, rows, e, t, t) > 0)
            better = fits & (changed == turn[:, None])
            fits = np.where(better.any(-1, keepdims=True), better, fits)
        score = rng.random(value.shape, np.float32)
        near = 0.01 * score - np.abs(value)  # any of those within 1 cm of the nearest
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

    def _race(self, rng, balance, kind, h, value, now, usable, queries):
        """Indices [B, R] into Q x (1 + E) of the queries that are asked.

        First horizons all win; the others race at the speed of their cell's weight
        (exponential waiting times: a weighted draw without replacement).
        """
        answer = value > 0
        changed = ~self.is_change[kind][..., None] & (answer != (now > 0))
        speed = balance.query_weights[
            kind[..., None],
            self.horizons.bucket[np.maximum(h, 0)],
            answer.astype(int),
            changed.astype(int),
        ]
        time = rng.standard_exponential(h.shape) / np.maximum(speed, 1e-6)
        time[..., 0] = -1.0
        time = np.where(usable, time, np.inf).reshape(len(h), -1)
        if time.shape[1] < queries:
            pad = ((0, 0), (0, queries - time.shape[1]))
            time = np.pad(time, pad, constant_values=np.inf)
        best = np.argsort(time, axis=-1)[:, :queries]
        valid = np.isfinite(np.take_along_axis(time, best, -1))
        return np.where(valid, best, 0), valid

    def _actions(self, episode, t):
        """The next H actions, zeros behind the end."""
        index = t[:, None] + np.arange(self.horizons.longest)
        inside = index < np.asarray(self.episodes.length)[episode][:, None]
        index = np.minimum(index, self.episodes.action.shape[1] - 1)
        actions = self.episodes.action[episode[:, None], index]
        return np.where(inside[..., None], actions, 0).astype(np.float32)


def _generator(seed, step):
    return np.random.Generator(np.random.Philox(key=[seed, step]))


def _first_of_each(values):
    """False where a value occurred before on the last axis."""
    same = values[..., :, None] == values[..., None, :]
    return ~np.tril(same, -1).any(-1)
