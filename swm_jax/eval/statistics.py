"""Statistics of an evaluation: intervals, balanced accuracy, calibration.

Axes: n answered questions, b bins.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, stats


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """95 % Wilson score interval of a success rate.

    Unlike rate +- 1.96 standard errors it stays inside [0, 1] and keeps a width when
    every episode succeeds.

    Returns:
      (low, high); (0, 1) when nothing was tried.
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes of {episodes} episodes")
    if episodes == 0:
        return 0.0, 1.0
    found = stats.binomtest(successes, episodes).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def class_accuracy(
    prediction: Bool[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]
) -> float:
    """Mean of the accuracies over true yes and true no; NaN without questions."""
    hits = prediction == truth
    parts = [hits[truth == answer].mean() for answer in np.unique(truth)]
    return float(np.mean(parts)) if parts else float("nan")


def balanced_accuracy(
    prediction: Bool[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    type_id: Int[np.ndarray, " n"],
) -> float:
    """Accuracy averaged over answers, then over question types.

    Guessing from the question type alone gives 0.5.
    """
    parts = [
        class_accuracy(prediction[type_id == kind], truth[type_id == kind])
        for kind in np.unique(type_id)
    ]
    return float(np.mean(parts)) if parts else float("nan")


def reliability(
    probability: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], bins: int = 10
) -> dict:
    """Reliability diagram: frequency of yes over the predicted probability of yes.

    Returns:
      "bins": one {"low", "high", "mean_probability", "frequency", "count"} for each
      non-empty bin, and "ece", the expected calibration error: the mean of
      |frequency - mean probability|, weighted by the counts.
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
    """Temperature T of sigmoid(logit / T) with the least log loss.

    Bounded search on log T for T in [1/20, 20]; the loss is convex in 1/T, so it has a
    single minimum. T above 1 means that the model is overconfident.
    """
    loss = lambda t: log_loss(logit / np.exp(t), truth)
    bounds = (np.log(0.05), np.log(20.0))
    found = optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-8}
    )
    return float(np.exp(found.x))


def spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation with average ranks; NaN where either is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")  # scipy would warn
    found: Any = stats.spearmanr(a, b)
    return float(found.statistic)


def bootstrap_interval(
    values: Float[np.ndarray, " n"], seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean; NaNs without values."""
    if len(values) == 0:
        return float("nan"), float("nan")
    if len(values) == 1:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=draws,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
