"""Horizons of questions, in steps ahead: buckets and their shares."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from swm_jax.records import Share, given, optional


@dataclasses.dataclass(frozen=True)
class Horizons:
    """Horizon buckets and the probability of each horizon.

    Attributes:
      longest: largest horizon.
      ends: last horizon of each bucket: (0, 4, 8) are buckets 0, 1..4 and 5..8.
      shares: share of queries in each bucket.
      planner: horizons at which planners query the model, sampled more often.
      planner_share: joint share of the planner's horizons within their bucket.
    """

    longest: int = 16
    ends: tuple[int, ...] = (0, 4, 8, 16)
    shares: tuple[float, ...] = (0.2, 0.2, 0.3, 0.3)
    planner: tuple[int, ...] = (8, 16)
    planner_share: Share = 0.5

    def __post_init__(self):
        ends = self.ends
        if ends[0] != 0 or ends[-1] != self.longest or list(ends) != sorted(set(ends)):
            raise ValueError(
                f"horizon buckets end at {ends}, expected to rise from 0 to "
                f"{self.longest}"
            )
        if len(self.shares) != len(ends) or min(self.shares) <= 0:
            raise ValueError(
                f"{len(ends)} horizon buckets need as many positive shares, got "
                f"{self.shares}"
            )

    @property
    def bucket(self) -> Int[np.ndarray, " horizons"]:
        """Bucket of every horizon."""
        return np.searchsorted(self.ends, np.arange(self.longest + 1))

    @property
    def weights(self) -> Float[np.ndarray, " horizons"]:
        """Probability of every horizon."""
        result = np.zeros(self.longest + 1)
        for k, share in enumerate(self.shares):
            inside = self.bucket == k
            planner = inside & np.isin(np.arange(self.longest + 1), self.planner)
            extra = self.planner_share if planner.any() else 0.0
            result[inside] = share * (1 - extra) / inside.sum()
            result[planner] += share * extra / max(planner.sum(), 1)
        return result / result.sum()

    def draw(
        self,
        rng: np.random.Generator,
        room: Int[np.ndarray, "..."],
        least: Int[np.ndarray, "..."],
        only: int | None = None,
    ) -> Int[np.ndarray, "..."]:
        """Random horizons in least..room (both >= 0), of bucket `only` if given.

        The result is -1 where no horizon is allowed.
        """
        weights = self.weights if only is None else self.weights * (self.bucket == only)
        total = np.concatenate([[0.0], np.cumsum(weights)])
        low = total[np.minimum(least, self.longest + 1)]
        high = total[np.minimum(room, self.longest) + 1]
        # Inverse transform, restricted to the probability mass of least..room.
        u = low + (high - low) * rng.random(np.broadcast(room, least).shape)
        found = np.searchsorted(total, u, "right") - 1
        found = np.clip(found, least, np.minimum(room, self.longest))
        return np.where(high > low + 1e-12, found, -1)


class Buckets(optional(Horizons, without=("longest",))):
    """Fields of `Horizons` in a config; None takes the default for the model."""


def horizons_of(longest: int, buckets: Any = None) -> Horizons:
    """Horizon buckets of a model with a given largest horizon.

    Args:
      longest: largest horizon of the model.
      buckets: overrides (`Buckets`).

    Raises:
      ValueError: buckets that do not end at `longest`, or shares that do not fit them.
    """
    chosen = {} if buckets is None else given(buckets)
    if longest == Horizons().longest:
        return Horizons(**chosen)
    ends = sorted({0, *(max(1, longest // k) for k in (4, 2, 1))})
    usual = {
        "ends": tuple(ends),
        "shares": (0.2, *[0.8 / (len(ends) - 1)] * (len(ends) - 1)),
        "planner": tuple(sorted({max(1, longest // 2), longest})),
    }
    return Horizons(longest, **{**usual, **chosen})
