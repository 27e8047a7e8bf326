"""Statistics of an evaluation, in numpy: intervals, balanced accuracy, calibration.

Axes: n answered questions, b bins. Nothing here knows of models or scenes.
"""

import numpy as np
from jaxtyping import Bool, Float, Int


def wilson_interval(
    successes: int, episodes: int, z: float = 1.959964
) -> tuple[float, float]:
    """Wilson score interval of a success rate; 95 % by default.

    Source: Wilson (1927). Unlike rate +- z * std it stays inside [0, 1] and keeps
    a width when every episode succeeds.

    Returns:
      (low, high); (0, 1) when nothing was tried.
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes of {episodes} episodes")
    if episodes == 0:
        return 0.0, 1.0
    rate = successes / episodes
    spread = 1.0 + z**2 / episodes
    centre = rate + z**2 / (2 * episodes)
    half = z * np.sqrt(rate * (1 - rate) / episodes + z**2 / (4 * episodes**2))
    low, high = (centre - half) / spread, (centre + half) / spread
    # The ends are exact where every episode agrees; rounding must not hide it.
    return (
        0.0 if successes == 0 else float(max(low, 0.0)),
        1.0 if successes == episodes else float(min(high, 1.0)),
    )


def class_accuracy(
    prediction: Bool[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]
) -> float:
    """Mean of the accuracy on the yes's and on the no's; NaN without questions."""
    hits = prediction == truth
    parts = [hits[truth == answer].mean() for answer in np.unique(truth)]
    return float(np.mean(parts)) if parts else float("nan")


def balanced_accuracy(
    prediction: Bool[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    type_id: Int[np.ndarray, " n"],
) -> float:
    """Mean over question types of the mean over answers of the accuracy.

    A guesser that knows the type but nothing else stands at 0.5.
    """
    parts = [
        class_accuracy(prediction[type_id == kind], truth[type_id == kind])
        for kind in np.unique(type_id)
    ]
    return float(np.mean(parts)) if parts else float("nan")


def reliability(
    probability: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], bins: int = 10
) -> dict:
    """Reliability diagram: how often the answer is yes where p(yes) was said.

    Returns:
      "bins": one {"low", "high", "mean_probability", "frequency", "count"} for
      each bin that holds anything, and "ece", the expected calibration error:
      |frequency - mean probability| weighted by the count.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.digitize(probability, edges[1:-1]), 0, bins - 1)
    rows = []
    for b in range(bins):
        inside = index == b
        if inside.any():
            rows.append(
                {
                    "low": float(edges[b]),
                    "high": float(edges[b + 1]),
                    "mean_probability": float(probability[inside].mean()),
                    "frequency": float(truth[inside].mean()),
                    "count": int(inside.sum()),
                }
            )
    gaps = [r["count"] * abs(r["frequency"] - r["mean_probability"]) for r in rows]
    return {"bins": rows, "ece": float(sum(gaps) / max(len(truth), 1))}


def log_loss(logit: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float:
    """Mean -log p of the true answer, p(yes) = sigmoid(logit), in nats."""
    return float(np.logaddexp(0.0, np.where(truth, -logit, logit)).mean())


def fit_temperature(
    logit: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]
) -> float:
    """The temperature T of sigmoid(logit / T) with the least log loss.

    Golden-section search on log T over [1/20, 20]: the loss is convex in 1/T, so
    it has one valley. Above 1 the model was too sure of itself.
    """
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    low, high = np.log(0.05), np.log(20.0)
    loss = lambda t: log_loss(logit / np.exp(t), truth)
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return float(np.exp((low + high) / 2.0))


def ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks 1..n; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]


def spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Rank correlation of Spearman, ties shared; NaN where either is constant."""
    a, b = ranks(np.asarray(a)), ranks(np.asarray(b))
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def bootstrap_interval(
    values: Float[np.ndarray, " n"], seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean; NaNs where nothing was seen."""
    if len(values) == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(np.asarray(values)[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)
