"""Accuracy of numeric answers: share of exact bins, and error in metres.

Axes: n queries, C answers of the type that has most.
"""

import numpy as np
from jaxtyping import Float

from swm_jax.eval.answers.queries import Queries


def examine_numbers(
    queries: Queries, logits: dict[str, Float[np.ndarray, "n C"]], source: str
) -> dict:
    """Accuracy of numeric question types, under every probe of `accuracy.answer`.

    For each type and probe, over queries balanced over bins:

        exact       share of queries whose most likely bin is the true one
        near        share whose most likely bin is the true one or adjacent to it
        error       mean error of the most likely bin's value, metres
        mean_error  mean error of the expected value under the probabilities, metres

    For comparison, `majority_exact` and `median_error` are those of the constant
    answers: the most common bin and the median value.

    Args:
      queries: of numeric types.
      logits: result of `accuracy.answer`.
      source: origin of the episodes, for the report.

    Raises:
      ValueError: a yes/no type.
    """
    language, per_type = queries.table.language, {}
    for type_id in np.unique(queries.type_id):
        inside, kind = queries.type_id == type_id, language.kind(int(type_id))
        if not kind.answers.numeric:
            raise ValueError(f"{kind.name} is answered by {kind.answers.answers}")
        truth, margin = queries.truth[inside], queries.margin[inside]
        values = np.array(kind.answers.values)
        row = {
            "answers": list(kind.answers.answers),
            "values": values.tolist(),
            "queries": int(inside.sum()),
            "majority_exact": float(np.bincount(truth).max() / len(truth)),
            "median_error": float(np.abs(np.median(margin) - margin).mean()),
        }
        for probe, given in logits.items():
            row[probe] = _score(given[inside, : len(values)], truth, margin, values)
        per_type[kind.name] = row
    return {
        "per_type": per_type,
        "episodes": len(np.unique(queries.episode)),
        "horizons": list(queries.horizons),
        "source": source,
    }


def _score(logits, truth, margin, values) -> dict[str, float]:
    said = logits.argmax(-1)
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    return {
        "exact": float((said == truth).mean()),
        "near": float((np.abs(said - truth) <= 1).mean()),
        "error": float(np.abs(values[said] - margin).mean()),
        "mean_error": float(np.abs(chances @ values - margin).mean()),
    }
