"""How well a world model tells numbers: the exact bin, and the error in metres.

Axes: n queries, C answers of the type that has most.
"""

import numpy as np
from jaxtyping import Float

from swm_jax.eval.answers.queries import Queries


def examine_numbers(
    queries: Queries, logits: dict[str, Float[np.ndarray, "n C"]], source: str
) -> dict:
    """What is right about numeric types, under every probe of `accuracy.answer`.

    For each type and probe, over queries balanced over bins:

        exact       share of queries whose most likely bin is the true one
        near        the same, or a bin beside it
        error       mean distance of the most likely bin's value to the truth, metres
        mean_error  the same of the mean value under the model's probabilities

    Beside them stand `majority_exact` and `median_error`: the most common bin and the
    median value, said of everything.

    Args:
      queries: what was asked, all of numeric types.
      logits: what `accuracy.answer` returned.
      source: where the episodes come from, for the reader.

    Raises:
      ValueError: a type that is answered by yes or no.
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
