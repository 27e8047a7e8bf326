"""Weights that make answers even, measured on the data set; and a report on them.

An image that shows a pair of touching blocks has pairs that do not touch, but most
images show no touching pair: asked evenly, "touching?" would nearly always be a no.
`calibrate` finds, for every type and horizon bucket, how often to want each answer in
an image with several, how seldom to ask in one that has a single answer, and which
queries to prefer among the extra horizons. It draws trial batches with seeds of its
own, so the result is a function of the data and the configuration alone. The bins of a
numeric type are evened out like the answers of yes or no, as far as the data have them.

Axes: M starts, K horizon buckets, C answers of the type that has most; cells are
[type, bucket, answer, changed].
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

_SEED = 0x5A0A
_TRIAL_STARTS = 4000
_TRIAL_BATCHES, _TRIAL_IMAGES = 12, 64
_CHOICE_ROUNDS, _QUERY_ROUNDS = 12, 8
_WANT_YES = 0.6  # how far the rarer answer is favoured before images are passed over
_WANT_LIMITS = (0.1, 0.9)
_MOST_UNEVEN = 1.15  # counts of the two answers
_LEAST_BIN = 1e-3  # share of wishes that a bin keeps, however common it is
KEEP_STILL = 0.3  # factor for images in which no answer to a type changes


@dataclasses.dataclass(frozen=True)
class Balance:
    """What evens out a data set.

    Attributes:
      kind_weights: float[types, K], how often a type and bucket is proposed.
      want: float[types, K, C], how often to want each answer where several exist.
      keep_only: float[types, K, C], factor for images with this answer only.
      query_weights: float[types, K, C, 2], speed of a query in the race for places.
      is_change: bool[types], types that compare with the present.
    """

    kind_weights: Float[np.ndarray, "types K"]
    want: Float[np.ndarray, "types K C"]
    keep_only: Float[np.ndarray, "types K C"]
    query_weights: Float[np.ndarray, "types K C 2"]
    is_change: Bool[np.ndarray, " types"]

    def proposal_weights(
        self, has: Bool[np.ndarray, "B types K C 2"]
    ) -> Float[np.ndarray, "B types K"]:
        """How often to propose each type and bucket about each of B starts."""
        offered = has.any(-1)
        # The only answer's factor; 0 where there is none.
        keep = np.where(offered, self.keep_only, 0.0).max(-1)
        keep = np.where(offered.sum(-1) > 1, 1.0, keep)
        still = ~has[..., 1].any(-1) & ~self.is_change[:, None]
        still[..., 0] = False  # at horizon 0 nothing can change
        return keep * self.kind_weights * np.where(still, KEEP_STILL, 1.0)


def calibrate(sampler: Any, questions: int, queries: int) -> Balance:
    """The weights for a `saqa.SaqaSampler` and batches of a given shape.

    Raises:
      ValueError: the episodes hold no type of question that has several answers.
    """
    balance = _even_choices(sampler)
    target = _target(sampler, balance)
    two, share = _two_answers(sampler), sampler.config.change_share
    for step in range(_QUERY_ROUNDS):
        seen = _count(sampler, balance, (questions, queries), 100 + step)
        balance = _correct(balance, seen + 1.0, target, share, two)
    return balance


def _two_answers(sampler) -> Bool[np.ndarray, "types 1 1"]:
    """Which types are answered by yes or no; the others have bins."""
    two = np.array([not kind.answers.numeric for kind in sampler.types])
    return two[:, None, None]


def _correct(balance, seen, target, change_share, two):
    """One damped step towards even answers; `seen` counts queries of each cell."""
    count, possible = seen.sum(-1), balance.want > 0
    answers = np.maximum(possible.sum(-1, keepdims=True), 1)
    want = target[..., None] / answers * seen.sum()
    # Cap the common answer at 1.15 times the rare one's count, so that a rare yes is
    # not swamped. Bins may differ: the rarest of many would starve all others.
    least = count[..., :2].min(-1, keepdims=True)
    want = np.where(two, np.minimum(want, _MOST_UNEVEN * least), want)
    weights = balance.query_weights * ((want / count) ** 0.7)[..., None]
    middle = np.median(weights[(balance.kind_weights > 0)[..., None] & possible])
    weights = np.clip(weights / middle, 1e-3, 1e3)
    # Answers that differ from the present one, up to their share: the frame misleads.
    odds = change_share / max(1 - change_share, 1e-3)
    more = np.sqrt(odds * seen[..., 0].sum(-1) / seen[..., 1].sum(-1))
    prefer = np.clip(weights[..., 1] / weights[..., 0] * more[..., None], 0.2, 5.0)
    prefer = np.where(balance.is_change[:, None, None], 1.0, prefer)
    weights = np.stack([weights[..., 0], weights[..., 0] * prefer], -1)
    want, keep = _leaned(balance, count, possible, two)
    return dataclasses.replace(
        balance, query_weights=weights, want=want, keep_only=keep
    )


def _leaned(balance, count, possible, two):
    """Want and keep, leaning towards the answers that were asked too seldom.

    A rare answer often comes from one question, which an image is asked once however
    often it is proposed: want it more until the count is even.
    """
    lean = np.sqrt(count[..., 0] / count[..., 1])  # > 1: too many "no"
    yes = np.where(two[..., 0], balance.want[..., 1], 0.5)
    odds = lean * yes / (1 - yes)
    yes = np.clip(odds / (1 + odds), *_WANT_LIMITS)
    keep = balance.keep_only[..., :2] * np.stack([1 / lean, lean], -1)
    keep = np.clip(keep / keep.max(-1, keepdims=True), 1e-6, 1.0)
    wide = _widened(np.stack([1 - yes, yes], -1), count), _widened(keep, count, 1.0)
    if two.all():
        return wide
    even = (possible * count).sum(-1, keepdims=True)
    lean = np.sqrt(even / np.maximum(possible.sum(-1, keepdims=True), 1) / count)
    keep = np.clip(balance.keep_only * lean, 1e-6, 1.0)
    want = _shares(balance.want * lean, possible)
    return np.where(two, wide[0], want), np.where(two, wide[1], keep)


def _widened(pair, like, fill=0.0):
    """[..., 2] as wide as the type with most answers."""
    gap = like.shape[-1] - 2
    return np.pad(pair, [(0, 0)] * (pair.ndim - 1) + [(0, gap)], constant_values=fill)


def _shares(want, possible):
    """Wishes for bins that sum to 1; none that is possible goes lost."""
    want = want / np.maximum(want.sum(-1, keepdims=True), 1e-30)
    want = np.maximum(want, _LEAST_BIN) * possible
    return want / np.maximum(want.sum(-1, keepdims=True), 1e-30)


def _target(sampler, balance):
    """Share of queries that each [type, bucket] should have."""
    shares = np.array(sampler.horizons.shares)
    target = (balance.kind_weights > 0) * shares
    target = target / np.maximum(target.sum(-1, keepdims=True), 1e-9)
    return target / max((target.sum(-1) > 0).sum(), 1)


def _even_choices(sampler):
    """Fixed point of proposal weights: even types, buckets and answers.

    What an image with few kinds of answer cannot be asked goes to its other kinds,
    so every correction changes the others: damped steps, no closed form.
    """
    rng = np.random.Generator(np.random.Philox(key=[_SEED, 0]))
    row, _ = sampler.starts(rng, _TRIAL_STARTS)
    has, two = sampler.pools.has[row], _two_answers(sampler)
    offered = has.any(-1)  # [starts, types, K, C]
    several = offered.sum(-1) > 1
    there = offered.any(0)
    possible = there.sum(-1) > 1  # [types, K]
    if not possible.any():
        raise ValueError(
            f"none of {len(sampler.pools.t)} starts has a question that is answered "
            f"both ways: {len(sampler.episodes.length)} episodes are too few"
        )
    half = _widened(np.full((*possible.shape, 2), 0.5), there)
    balance = Balance(
        kind_weights=possible.astype(float),
        want=np.where(two, half, _shares(there * 1.0, there)),
        keep_only=np.ones(there.shape),
        query_weights=np.ones((*there.shape, 2)),
        is_change=sampler.is_change,
    )
    target = _target(sampler, balance)
    for _ in range(_CHOICE_ROUNDS):
        weights = balance.proposal_weights(has)
        weights = weights / np.maximum(weights.sum((1, 2), keepdims=True), 1e-9)
        both = (weights * several).mean(0)
        single = offered & ~several[..., None]
        only = np.stack(
            [(weights * single[..., c]).mean(0) for c in range(there.shape[-1])], -1
        )
        mass = both + only.sum(-1)
        all_of_them = only / np.maximum(balance.keep_only, 1e-6)
        want, keep = _even_out(both, all_of_them[..., :2])
        want, keep = _widened(want, there), _widened(keep, there, 1.0)
        if not two.all():
            mixed = (weights * several)[..., None] * offered * balance.want
            mixed /= np.maximum((offered * balance.want).sum(-1, keepdims=True), 1e-30)
            bins = _even_out_bins(balance, mixed.mean(0), only, all_of_them, there)
            want, keep = np.where(two, want, bins[0]), np.where(two, keep, bins[1])
        factor = np.clip((target / np.maximum(mass, 1e-6)) ** 0.7, 0.5, 2.0)
        kind = np.clip(balance.kind_weights * factor, 1e-3, 1e3) * possible
        balance = dataclasses.replace(
            balance, kind_weights=kind / kind.sum(), want=want, keep_only=keep
        )
    return balance


def _even_out(both, only):
    """want and keep_only [types, K, 2] such that yes and no are asked equally often.

    Where images with only "no" abound, "yes" is wanted more often than not in images
    that have both, and only so many of the others are kept as make the answers even.
    """
    no, yes = only[..., 0], only[..., 1]
    rare_yes = no >= yes
    few, many = np.where(rare_yes, yes, no), np.where(rare_yes, no, yes)
    # few + both * want = both * (1 - want) + many * keep
    want = (both + many - few) / np.maximum(2 * both, 1e-9)
    want = np.clip(want, 1 - _WANT_YES, _WANT_YES)
    keep = (few + both * (2 * want - 1)) / np.maximum(many, 1e-9)
    keep = np.clip(keep, 1e-6, 1.0)
    want_yes = np.where(rare_yes, want, 1 - want)
    one = np.ones_like(keep)
    keep_only = [np.where(rare_yes, keep, one), np.where(rare_yes, one, keep)]
    return np.stack([1 - want_yes, want_yes], -1), np.stack(keep_only, -1)


def _even_out_bins(balance, mixed, only, all_of_them, there):
    """want and keep_only [types, K, C], one damped step towards even bins.

    Args:
      mixed: share of proposals that want each bin in images with several.
      only: share about images with that bin alone; `all_of_them` if all were kept.
      there: bins that the data have.
    """
    found = mixed + only
    even = found.sum(-1, keepdims=True) / np.maximum(there.sum(-1, keepdims=True), 1)
    factor = np.clip((even / np.maximum(found, 1e-9)) ** 0.7, 0.5, 2.0)
    keep = (even - mixed) / np.maximum(all_of_them, 1e-9)
    return _shares(balance.want * factor, there), np.clip(keep, 1e-6, 1.0)


def _count(sampler, balance, shape, stream):
    """Queries of trial batches, [types, K, answer, changed]."""
    seen = np.zeros((*balance.want.shape, 2))
    for step in range(_TRIAL_BATCHES):
        rng = np.random.Generator(np.random.Philox(key=[_SEED + stream, step]))
        batch = sampler.draw(rng, balance, _TRIAL_IMAGES, *shape)
        valid = batch.query_valid
        kind = np.searchsorted(sampler.pools.type_id, batch.query_type[valid])
        answer = batch.query_answer[valid]
        k = sampler.horizons.bucket[batch.query_horizon[valid]]
        changed = (answer != batch.query_now[valid]) & ~sampler.is_change[kind]
        np.add.at(seen, (kind, k, answer, changed.astype(int)), 1)
    return seen


def pool_report(sampler: Any, questions: int = 12, queries: int = 36) -> str:
    """Pool sizes and the balance of trial batches, as a table in plain text.

    Columns per horizon bucket: starts in the pool that have a "no" / a "yes", share of
    all queries, share of yes among them, share whose answer differs from now. Numeric
    types follow with the share of every bin.
    """
    balance = sampler.balance(questions, queries)
    seen = _count(sampler, balance, (questions, queries), 999)
    sizes = sampler.pools.has.any(-1).sum(0)
    ends = sampler.horizons.ends
    places = _TRIAL_BATCHES * _TRIAL_IMAGES * queries
    lines = [
        f"{len(sampler.pools.t)} starts in {len(sampler.episodes.length)} episodes; "
        f"{100 * seen.sum() / places:.1f} % of the query places filled",
        "per bucket: starts no / yes, % of queries, % yes, % changed",
    ]
    names = ["h = 0", *(f"h = {a + 1}..{b}" for a, b in itertools.pairwise(ends))]
    lines.append(" " * 22 + "".join(f"{name:^34}" for name in names))
    bins = []
    for i, asked in enumerate(sampler.types):
        if asked.answers.numeric:
            count = seen[i].sum((0, -1))
            share = 100 * count / max(count.sum(), 1)
            told = ", ".join(
                f"{answer} {x:.0f}" for answer, x in zip(asked.answers.answers, share)
            )
            bins.append(f"{asked.name}: % of queries {told}")
            continue
        row = f"{asked.name:22}"
        for k in range(len(ends)):
            n = seen[i, k]
            total = max(n.sum(), 1)
            row += (
                f"{sizes[i, k, 0]:8d} /{sizes[i, k, 1]:8d}"
                f"{100 * n.sum() / max(seen.sum(), 1):5.1f}"
                f"{100 * n[1].sum() / total:4.0f}{100 * n[:, 1].sum() / total:4.0f}   "
            )
        lines.append(row.rstrip())
    return "\n".join([*lines, *bins])
