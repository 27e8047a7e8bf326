"""Horizon buckets, and how often each horizon is asked."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Horizons:
    """Horizon buckets and how likely each horizon is.

    Attributes:
      longest: largest horizon asked.
      ends: last horizon of each bucket; the first bucket is (0,).
      shares: share of queries in each bucket.
      planner: horizons that a planner asks at.
      planner_share: share of a bucket that its planner horizons take together.
    """

    longest: int = 16
    ends: tuple[int, ...] = (0, 4, 8, 16)
    shares: tuple[float, ...] = (0.2, 0.2, 0.3, 0.3)
    planner: tuple[int, ...] = (8, 16)
    planner_share: float = 0.5

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
    def bucket(self) -> Int[np.ndarray, " longest+1"]:
        """Bucket of every horizon."""
        return np.searchsorted(self.ends, np.arange(self.longest + 1))

    @property
    def weights(self) -> Float[np.ndarray, " longest+1"]:
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
        """Horizons in least..room (both >= 0), of one bucket if `only` says which.

        Where nothing is allowed the result is -1.
        """
        weights = self.weights if only is None else self.weights * (self.bucket == only)
        total = np.concatenate([[0.0], np.cumsum(weights)])
        low = total[np.minimum(least, self.longest + 1)]
        high = total[np.minimum(room, self.longest) + 1]
        u = low + (high - low) * rng.random(np.broadcast(room, least).shape)
        found = np.searchsorted(total, u, "right") - 1
        found = np.clip(found, least, np.minimum(room, self.longest))
        return np.where(high > low + 1e-12, found, -1)
