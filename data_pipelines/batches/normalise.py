"""Statistics of actions, and the scale that they give.

With `config.data.actions = "quantile"` the numbers of an action are scaled so that
the 1 % and 99 % quantiles of the training episodes become -1 and 1, each domain with
its own; "raw" (the default, and what is published) leaves them. What was chosen goes
into the checkpoint's metadata (`swm_jax.models.action_scale`), from where planning
takes it: planners and envs never see scaled actions.

Axes: n actions, A numbers each.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from data_pipelines.schema.arrays import EpisodeArrays
from data_pipelines.schema.episode import DataError
from swm_jax.models.action_scale import KINDS

QUANTILES = (0.01, 0.99)


def action_statistics(actions: Float[np.ndarray, "n A"]) -> dict[str, list[float]]:
    """Minimum, quantiles, mean, deviation and maximum of each number."""
    low, high = np.quantile(actions, QUANTILES, axis=0)
    rows = {
        "min": actions.min(0),
        "q01": low,
        "mean": actions.mean(0, dtype=np.float64),
        "std": actions.std(0, dtype=np.float64),
        "q99": high,
        "max": actions.max(0),
    }
    return {name: [float(x) for x in row] for name, row in rows.items()}


def action_entries(
    sources: Iterable[EpisodeArrays], kind: str = "raw"
) -> dict[str, dict[str, Any]]:
    """domain -> entry for the metadata, over all training episodes of a domain.

    Raises:
      DataError: an unknown kind, or one domain with two action widths.
    """
    if kind not in KINDS:
        raise DataError(
            f"config.data.actions is '{kind}', expected one of {', '.join(KINDS)}"
        )
    by_domain: dict[str, list[np.ndarray]] = {}
    for episodes in sources:
        by_domain.setdefault(episodes.domain, []).append(episodes.inside())
    entries = {}
    for domain, parts in by_domain.items():
        sizes = sorted({part.shape[1] for part in parts})
        if len(sizes) > 1:
            raise DataError(
                f"sources of domain '{domain}' have actions of {sizes} numbers"
            )
        entry: dict[str, Any] = {"kind": kind, "size": sizes[0]}
        if kind == "quantile":
            statistics = action_statistics(np.concatenate(parts))
            # Six digits: the same however numpy was built.
            entry["low"] = _rounded(statistics["q01"])
            entry["high"] = _rounded(statistics["q99"])
        entries[domain] = entry
    return entries


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
