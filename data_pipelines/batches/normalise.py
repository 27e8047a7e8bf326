"""Statistics of actions, and action normalisation by quantiles.

With `config.data.actions = "quantile"` the numbers of an action are scaled so that
the 1 % and 99 % quantiles of a domain's training episodes become -1 and 1; "raw" (the
default, used by the published model) leaves them unscaled. The scale is stored in the
checkpoint's metadata (`swm_jax.models.action_scale`) and applied inside the model, so
that planners and envs work with unscaled actions.

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
    """Minimum, quantiles, mean, standard deviation and maximum, A numbers each."""
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
    """Metadata entries by domain, from all training episodes of a domain.

    For example {"board": {"kind": "quantile", "size": 2, "low": [...], "high": [...]}}.

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
            # Six digits, so that builds of numpy that round differently agree.
            entry["low"] = _rounded(statistics["q01"])
            entry["high"] = _rounded(statistics["q99"])
        entries[domain] = entry
    return entries


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
