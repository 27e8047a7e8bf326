"""Sampling weights that balance the answers of a data set, and a report on them.

Most images show no pair of touching blocks, so uniform sampling would answer
"touching?" with no nearly always. For every question type and horizon bucket,
`calibrate` measures: the probability of each answer in images that offer several, a
factor below 1 for images that offer a single answer, and weights of queries at the
extra horizons. It draws trial batches with fixed seeds, so the result is a function of
the data and the configuration. The bins of a numeric type are balanced like yes and
no, as far as they occur in the data.

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
_WANT_YES = 0.6  # largest probability of the rarer answer; beyond, drop images
_WANT_LIMITS = (0.1, 0.9)
_MOST_UNEVEN = 1.15  # largest ratio of the counts of the two answers
_LEAST_BIN = 1e-3  # smallest probability of a bin that occurs
KEEP_STILL = 0.3  # factor for images in which no answer to a type changes


@dataclasses.dataclass(frozen=True)
class Balance:
    """Sampling weights under which the answers of a data set are balanced.

    Attributes:
      kind_weights: float[types, K], weight of proposing a type and bucket.
      want: float[types, K, C], probability of each answer where an image has several.
      keep_only: float[types, K, C], factor for images with this answer only.
      query_weights: float[types, K, C, 2], weight of a query at an extra horizon; the
        last axis says whether its answer differs from the present one.
      is_change: bool[types], types that compare the horizon with the present.
    """

    kind_weights: Float[np.ndarray, "types K"]
    want: Float[np.ndarray, "types K C"]
    keep_only: Float[np.ndarray, "types K C"]
    query_weights: Float[np.ndarray, "types K C 2"]
    is_change: Bool[np.ndarray, " types"]

    def proposal_weights(
        self, has: Bool[np.ndarray, "B types K C 2"]
    ) -> Float[np.ndarray, "B types K"]:
        """Weights of proposing each type and bucket at each of B starts."""
        offered = has.any(-1)
        # Factor of the only answer; 0 where the image offers no answer.
        keep = np.where(offered, self.keep_only, 0.0).max(-1)
        keep = np.where(offered.sum(-1) > 1, 1.0, keep)
        still = ~has[..., 1].any(-1) & ~self.is_change[:, None]
        still[..., 0] = False  # at horizon 0 nothing can change
        return keep * self.kind_weights * np.where(still, KEEP_STILL, 1.0)


def calibrate(sampler: Any, questions: int, queries: int) -> Balance:
    """Measures the weights for a `SaqaSampler` and batches of a given shape.

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
    """True for yes/no types, False for numeric types with bins."""
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
    # Exponent below 1: damped, as every weight changes the counts of all others.
    weights = balance.query_weights * ((want / count) ** 0.7)[..., None]
    middle = np.median(weights[(balance.kind_weights > 0)[..., None] & possible])
    weights = np.clip(weights / middle, 1e-3, 1e3)
    # Raise answers that differ from the present one to `change_share`: the frame
    # alone would give the wrong answer, so they teach prediction.
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
    """`want` and `keep_only` shifted towards the answers with too few queries.

    A rare answer is often offered by a single question of an image, and duplicates are
    dropped, so its count stays below its probability: raise that until counts agree.
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
    """Probabilities of bins that sum to 1; possible ones get `_LEAST_BIN` or more."""
    want = want / np.maximum(want.sum(-1, keepdims=True), 1e-30)
    want = np.maximum(want, _LEAST_BIN) * possible
    return want / np.maximum(want.sum(-1, keepdims=True), 1e-30)


def _target(sampler, balance):
    """Target share of queries [types, K]: even types, buckets by their shares."""
    shares = np.array(sampler.horizons.shares)
    target = (balance.kind_weights > 0) * shares
    target = target / np.maximum(target.sum(-1, keepdims=True), 1e-9)
    return target / max((target.sum(-1) > 0).sum(), 1)


def _even_choices(sampler):
    """Proposal weights under which types, buckets and answers are balanced.

    Weights are normalised per image, so each correction shifts all others: found by
    damped fixed-point steps in place of a closed form.
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
    """want and keep_only [types, K, 2] under which yes and no are equally frequent.

    Where images with only "no" abound, images with both answers give "yes" with
    probability up to `_WANT_YES`, and the surplus of "no" images is thinned out.
    """
    no, yes = only[..., 0], only[..., 1]
    rare_yes = no >= yes
    few, many = np.where(rare_yes, yes, no), np.where(rare_yes, no, yes)
    # Solve few + both * want = both * (1 - want) + many * keep, first with keep = 1.
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
      only: share about images with that bin alone.
      all_of_them: the same if `keep_only` were 1.
      there: bins that occur in the data.
    """
    found = mixed + only
    even = found.sum(-1, keepdims=True) / np.maximum(there.sum(-1, keepdims=True), 1)
    factor = np.clip((even / np.maximum(found, 1e-9)) ** 0.7, 0.5, 2.0)
    keep = (even - mixed) / np.maximum(all_of_them, 1e-9)
    return _shares(balance.want * factor, there), np.clip(keep, 1e-6, 1.0)


def _count(sampler, balance, shape, stream):
    """Number of queries in trial batches, [types, K, answer, changed]."""
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
