"""Retention of a run's checkpoints, and the timeout of a save."""

import dataclasses

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

SAVE_TIMEOUT = 1200  # seconds, Orbax's own: 35 GB of a 3B run at 30 MB/s


@dataclasses.dataclass(frozen=True)
class KeepBest:
    """Best checkpoints to keep in addition to the newest.

    Attributes:
      metric: a validation scalar, for example "validation/accuracy".
      mode: "max" or "min".
      count: number of checkpoints.
    """

    metric: str = "validation/accuracy"
    mode: str = "max"
    count: int = 1

    def __post_init__(self):
        if self.mode not in ("max", "min"):
            raise ValueError(f"keep_best.mode is '{self.mode}', expected max or min")


def manager_options(
    keep: int, best: KeepBest | None, timeout: int
) -> ocp.CheckpointManagerOptions:
    """Orbax options that keep the newest and the best checkpoints.

    Args:
      keep: number of newest checkpoints.
      best: best checkpoints to keep too; None for none.
      timeout: seconds after which an incomplete save has failed.

    Raises:
      ValueError: `keep` or `timeout` is not a whole number from 1 on.
    """
    for name, value in (("keep_checkpoints", keep), ("save_timeout", timeout)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value}, expected a whole number from 1 on")
    policy, track = policies.LatestN(n=keep), {}
    if best is not None:
        score = lambda metrics: metrics.get(best.metric, -np.inf)
        track = {"best_fn": score, "best_mode": best.mode}
        policy = policies.AnyPreservationPolicy(
            [
                policy,
                policies.BestN(
                    get_metric_fn=score,
                    reverse=best.mode == "min",
                    n=best.count,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
    return ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        create=True,
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(timeout_secs=timeout),
        **track,
    )
