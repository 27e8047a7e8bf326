"""Weights that make answers even, measured on the data set; and a report on them.

An image that shows a pair of touching blocks has pairs that do not touch, but most
images show no touching pair: asked evenly, "touching?" would nearly always be a no.
`calibrate` finds, for every type and horizon bucket, how often to want "yes" in an
image with both answers, how seldom to ask in one that has a single answer, and which
queries to prefer among the extra horizons. It draws trial batches with seeds of its
own, so the result is a function of the data and the configuration alone.

Axes: M starts, K horizon buckets; cells are [type, bucket, answer, changed].
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from swm_jax.questions import ANSWERS

_SEED = 0x5A0A
_TRIAL_STARTS = 4000
_TRIAL_BATCHES, _TRIAL_IMAGES = 12, 64
_CHOICE_ROUNDS, _QUERY_ROUNDS = 12, 8
_WANT_YES = 0.6  # how far the rarer answer is favoured before images are passed over
_WANT_LIMITS = (0.1, 0.9)
_MOST_UNEVEN = 1.15  # counts of the two answers
KEEP_STILL = 0.3  # factor for images in which no answer to a type changes


@dataclasses.dataclass(frozen=True)
class Balance:
    """What evens out a data set.

    Attributes:
      kind_weights: float[types, K], how often a type and bucket is proposed.
      want_yes: float[types, K], probability to want "yes" where both answers exist.
      keep_only: float[types, K, 2], factor for images with this answer only.
      query_weights: float[types, K, 2, 2], speed of a query in the race for places.
      is_change: bool[types], types that compare with the present.
    """

    kind_weights: Float[np.ndarray, "types K"]
    want_yes: Float[np.ndarray, "types K"]
    keep_only: Float[np.ndarray, "types K 2"]
    query_weights: Float[np.ndarray, "types K 2 2"]
    is_change: Bool[np.ndarray, " types"]

    def proposal_weights(
        self, has: Bool[np.ndarray, "B types K 2 2"]
    ) -> Float[np.ndarray, "B types K"]:
        """How often to propose each type and bucket about each of B starts."""
        no, yes = np.moveaxis(has.any(-1), -1, 0)
        keep = np.where(yes, self.keep_only[..., 1], self.keep_only[..., 0])
        keep = np.where(no & yes, 1.0, np.where(no | yes, keep, 0.0))
        still = ~has[..., 1].any(-1) & ~self.is_change[:, None]
        still[..., 0] = False  # at horizon 0 nothing can change
        return keep * self.kind_weights * np.where(still, KEEP_STILL, 1.0)


def calibrate(sampler: Any, questions: int, queries: int) -> Balance:
    """The weights for a `saqa.SaqaSampler` and batches of a given shape.

    Raises:
      ValueError: the episodes hold no type of question that is answered both ways.
    """
    balance = _even_choices(sampler)
    target = _target(sampler, balance)
    share = sampler.config.change_share
    for step in range(_QUERY_ROUNDS):
        seen = _count(sampler, balance, (questions, queries), 100 + step)
        balance = _correct(balance, seen + 1.0, target, share)
    return balance


def _correct(balance, seen, target, change_share):
    """One damped step towards even answers; `seen` counts queries of each cell."""
    count = seen.sum(-1)
    want = target[..., None] / 2 * seen.sum()
    # An answer that cannot be had more often holds the other one back.
    want = np.minimum(want, _MOST_UNEVEN * count.min(-1, keepdims=True))
    weights = balance.query_weights * ((want / count) ** 0.7)[..., None]
    middle = np.median(weights[balance.kind_weights > 0])
    weights = np.clip(weights / middle, 1e-3, 1e3)
    # Answers that differ from the present one, up to their share: the frame misleads.
    odds = change_share / max(1 - change_share, 1e-3)
    more = np.sqrt(odds * seen[..., 0].sum(-1) / seen[..., 1].sum(-1))
    prefer = np.clip(weights[..., 1] / weights[..., 0] * more[..., None], 0.2, 5.0)
    prefer = np.where(balance.is_change[:, None, None], 1.0, prefer)
    weights = np.stack([weights[..., 0], weights[..., 0] * prefer], -1)
    # A rare answer often comes from one question, which an image is asked once
    # however often it is proposed: want it more until the count is even.
    lean = np.sqrt(count[..., 0] / count[..., 1])  # > 1: too many "no"
    odds = lean * balance.want_yes / (1 - balance.want_yes)
    keep = balance.keep_only * np.stack([1 / lean, lean], -1)
    return dataclasses.replace(
        balance,
        query_weights=weights,
        want_yes=np.clip(odds / (1 + odds), *_WANT_LIMITS),
        keep_only=np.clip(keep / keep.max(-1, keepdims=True), 1e-6, 1.0),
    )


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
    has = sampler.pools.has[row]
    no, yes = np.moveaxis(has.any(-1), -1, 0)
    wanted = np.isin(sampler.types, sampler.config.types or sampler.types)[:, None]
    possible = no.any(0) & yes.any(0) & wanted  # [types, K]
    if not possible.any():
        raise ValueError(
            f"none of {len(sampler.pools.t)} starts has a question that is answered "
            f"both ways: {len(sampler.episodes.length)} episodes are too few"
        )
    shape = possible.shape
    balance = Balance(
        kind_weights=possible.astype(float),
        want_yes=np.full(shape, 0.5),
        keep_only=np.ones((*shape, 2)),
        query_weights=np.ones((*shape, 2, 2)),
        is_change=sampler.is_change,
    )
    target = _target(sampler, balance)
    for _ in range(_CHOICE_ROUNDS):
        weights = balance.proposal_weights(has)
        weights = weights / np.maximum(weights.sum((1, 2), keepdims=True), 1e-9)
        both = (weights * (no & yes)).mean(0)
        only = np.stack(
            [(weights * (no & ~yes)).mean(0), (weights * (yes & ~no)).mean(0)], -1
        )
        mass = both + only.sum(-1)
        want, keep = _even_out(both, only / np.maximum(balance.keep_only, 1e-6))
        factor = np.clip((target / np.maximum(mass, 1e-6)) ** 0.7, 0.5, 2.0)
        kind = np.clip(balance.kind_weights * factor, 1e-3, 1e3) * possible
        balance = dataclasses.replace(
            balance, kind_weights=kind / kind.sum(), want_yes=want, keep_only=keep
        )
    return balance


def _even_out(both, only):
    """want_yes and keep_only such that both answers are asked equally often.

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
    return want_yes, np.stack(keep_only, -1)


def _count(sampler, balance, shape, stream):
    """Queries of trial batches, [types, K, answer, changed]."""
    seen = np.zeros((len(sampler.types), len(sampler.horizons.ends), 2, 2))
    for step in range(_TRIAL_BATCHES):
        rng = np.random.Generator(np.random.Philox(key=[_SEED + stream, step]))
        batch = sampler.draw(rng, balance, _TRIAL_IMAGES, *shape)
        valid = batch.query_valid
        kind = batch.query_type[valid] - sampler.pools.first_id
        answer = batch.query_answer[valid]
        k = sampler.horizons.bucket[batch.query_horizon[valid]]
        changed = (answer != batch.query_now[valid]) & ~sampler.is_change[kind]
        np.add.at(seen, (kind, k, answer, changed.astype(int)), 1)
    return seen


def pool_report(sampler: Any, questions: int = 12, queries: int = 36) -> str:
    """Pool sizes and the balance of trial batches, as a table in plain text.

    Columns per horizon bucket: starts in the pool that have a "no" / a "yes", share of
    all queries, share of yes among them, share whose answer differs from now.
    """
    balance = sampler.balance(questions, queries)
    seen = _count(sampler, balance, (questions, queries), 999)
    sizes = sampler.pools.has.any(-1).sum(0)
    ends = sampler.horizons.ends
    places = _TRIAL_BATCHES * _TRIAL_IMAGES * queries
    lines = [
        f"{len(sampler.pools.t)} starts in {len(sampler.episodes.length)} episodes; "
        f"{100 * seen.sum() / places:.1f} % of the query places filled",
        f"per bucket: starts {' / '.join(ANSWERS)}, % of queries, % yes, % changed",
    ]
    names = ["h = 0", *(f"h = {a + 1}..{b}" for a, b in itertools.pairwise(ends))]
    lines.append(" " * 22 + "".join(f"{name:^34}" for name in names))
    for i, name in enumerate(sampler.types):
        row = f"{name:22}"
        for k in range(len(ends)):
            n = seen[i, k]
            total = max(n.sum(), 1)
            row += (
                f"{sizes[i, k, 0]:8d} /{sizes[i, k, 1]:8d}"
                f"{100 * n.sum() / max(seen.sum(), 1):5.1f}"
                f"{100 * n[1].sum() / total:4.0f}{100 * n[:, 1].sum() / total:4.0f}   "
            )
        lines.append(row.rstrip())
    return "\n".join(lines)
