"""Accuracy and calibration of a world model's answers, with probes for shortcuts.

Three probes: the same model with zero actions, the same model with the image of another
scene, and a table of answer frequencies by question and horizon. A model that uses
image and actions is far better than each of them.

Axes: S starts, Q questions of a start, K horizons, n queries, C answers.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Bool, Float

from swm_jax.baselines import Answerer
from swm_jax.eval import statistics
from swm_jax.eval.answers.queries import Queries, guess_from_question
from swm_jax.models.ask import read_answers
from swm_jax.planning.goals.question_batch import question_batch

BATCH = 16  # starts answered in one call
PROBES = ("model", "no_action", "other_image")


def answer(
    answerer: Answerer, queries: Queries, say: Callable[[int], None] | None = None
) -> dict[str, Float[np.ndarray, "n C"]]:
    """Logits of the answers to every query, by the model and under each probe.

    Args:
      answerer: the model.
      queries: questions about starts.
      say: called with the number of starts done after every batch.
    """
    count = len(queries.episode)
    # Image of another episode: a shift by a third of the starts, which are grouped by
    # episode.
    other = np.roll(np.arange(count), -(count // 3) or -1)
    lists = [[queries.table.question(g) for g in row] for row in queries.asked]
    batch = question_batch(lists, answerer.tokenizer, answerer.question_length)
    logits = {name: [] for name in PROBES}
    take = lambda tree, index: jax.tree.map(lambda x: np.asarray(x)[index], tree)
    for begin in range(0, count, BATCH):
        # Pad the last batch with repeats, a fixed shape for a single compilation.
        rows = np.minimum(np.arange(begin, begin + BATCH), count - 1)
        kept = min(BATCH, count - begin)
        actions = queries.actions[rows]
        chunks = np.stack([actions, np.zeros_like(actions)], 1)
        asked = take(batch, rows)
        own = answerer.observe(take(queries.scene, rows))
        wrong = answerer.observe(take(queries.scene, other[rows]))
        moved = read_answers(answerer.model, own, asked, chunks, queries.horizons)
        moved = np.asarray(moved)
        logits["model"].append(moved[:kept, 0])
        logits["no_action"].append(moved[:kept, 1])
        elsewhere = read_answers(answerer.model, wrong, asked, chunks, queries.horizons)
        logits["other_image"].append(np.asarray(elsewhere)[:kept, 0])
        if say:
            say(begin + kept)
    where = queries.start, queries.horizon, queries.column
    return {name: np.concatenate(parts)[where] for name, parts in logits.items()}


def examine(queries: Queries, logits: dict[str, np.ndarray], source: str) -> dict:
    """The `qa` section of results.json: accuracy by type and horizon, calibration.

    `types_above_majority` counts the types whose whole 95 % interval lies above the
    accuracy of a constant answer, which is 0.5 on balanced questions.

    Args:
      queries: of yes/no types.
      logits: result of `answer`.
      source: origin of the episodes, for the report.
    """
    truth, kinds = queries.truth > 0, queries.type_id
    logits = {name: value[:, 1] - value[:, 0] for name, value in logits.items()}
    said = {name: value > 0 for name, value in logits.items()}
    said["question_horizon_only"] = guess_from_question(queries)
    overall = {
        name: statistics.balanced_accuracy(value, truth, kinds)
        for name, value in said.items()
    }
    language = queries.table.language
    per_type = {
        language.kind(int(kind)).name: _one_type(queries, said, kinds == kind)
        for kind in np.unique(kinds)
    }
    every = np.ones(len(truth), bool)
    by_horizon = {}
    for k, h in enumerate(queries.horizons):
        inside = queries.horizon == k
        by_horizon[str(h)] = statistics.balanced_accuracy(
            said["model"][inside], truth[inside], kinds[inside]
        )
    return {
        "balanced_accuracy": overall["model"],
        "interval95": _interval(said["model"], queries, every),
        "question_horizon_only": overall["question_horizon_only"],
        "no_action": overall["no_action"],
        "other_image": overall["other_image"],
        "queries": len(truth),
        "episodes": len(np.unique(queries.episode)),
        "horizons": list(queries.horizons),
        "source": source,
        "per_type": per_type,
        "types_above_majority": sum(
            row["interval95"][0] > row["majority"] for row in per_type.values()
        ),
        "by_horizon": by_horizon,
        "calibration": calibrate(logits["model"], truth, queries.fold),
    }


def calibrate(
    logit: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], fold: np.ndarray
) -> dict | None:
    """Temperature fitted on fold 0; reliability with and without it on fold 1."""
    fit, show = fold == 0, fold == 1
    if not fit.any() or not show.any():
        return None
    temperature = statistics.fit_temperature(logit[fit], truth[fit])
    logit, truth = logit[show], truth[show]
    probability = lambda x: np.exp(-np.logaddexp(0.0, -x))
    tempered = logit / temperature
    return {
        "temperature": temperature,
        "share_yes_said": float(probability(logit).mean()),
        "share_yes_seen": float(truth.mean()),
        "before": statistics.reliability(probability(logit), truth),
        "after": statistics.reliability(probability(tempered), truth),
        "log_loss_before": statistics.log_loss(logit, truth),
        "log_loss_after": statistics.log_loss(tempered, truth),
    }


def _one_type(queries: Queries, said: dict, inside: Bool[np.ndarray, " n"]) -> dict:
    truth = queries.truth[inside] > 0
    accuracy = {
        name: statistics.class_accuracy(value[inside], truth)
        for name, value in said.items()
    }
    hits = said["model"][inside] == truth
    right = {t: float(hits[truth == t].mean()) for t in (True, False)}
    # Frequency of yes before balancing: over all questions, at the horizons at which
    # this type has both answers.
    kind = queries.type_id[inside][0]
    asked = np.unique(queries.horizon[inside])
    share = float(queries.pool[:, asked][..., queries.table.type_id == kind].mean())
    return {
        "balanced_accuracy": accuracy["model"],
        "interval95": _interval(said["model"], queries, inside),
        "majority": 0.5,
        "accuracy_yes": right[True],
        "accuracy_no": right[False],
        "question_horizon_only": accuracy["question_horizon_only"],
        "no_action": accuracy["no_action"],
        "other_image": accuracy["other_image"],
        "queries": int(inside.sum()),
        "unbalanced_accuracy": share * right[True] + (1 - share) * right[False],
        "unbalanced_majority": max(share, 1 - share),
    }


def _interval(said, queries: Queries, inside, draws: int = 300) -> list[float]:
    """95 % bootstrap interval of balanced accuracy over the queries `inside`, bool[n].

    Episodes are resampled in place of queries, as queries of one are correlated.
    """
    rng = np.random.default_rng(0)
    episode = queries.episode[queries.start]
    groups = [
        np.flatnonzero(inside & (episode == e)) for e in np.unique(episode[inside])
    ]
    values = []
    for _ in range(draws):
        pick = rng.integers(0, len(groups), len(groups))
        rows = np.concatenate([groups[i] for i in pick])
        values.append(
            statistics.balanced_accuracy(
                said[rows], queries.truth[rows] > 0, queries.type_id[rows]
            )
        )
    return np.quantile(values, [0.025, 0.975]).tolist()
