"""Which checkpoints of a run stay."""

import dataclasses

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies


@dataclasses.dataclass(frozen=True)
class KeepBest:
    """Which checkpoints stay beside the newest.

    Attributes:
      metric: a validation scalar, for example "validation/accuracy".
      mode: "max" or "min".
      count: how many of the best.
    """

    metric: str = "validation/accuracy"
    mode: str = "max"
    count: int = 1

    def __post_init__(self):
        if self.mode not in ("max", "min"):
            raise ValueError(f"keep_best.mode is '{self.mode}', expected max or min")


def manager_options(keep: int, best: KeepBest | None) -> ocp.CheckpointManagerOptions:
    """Orbax's options that keep the newest, and beside them the best."""
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
        **track,
    )
