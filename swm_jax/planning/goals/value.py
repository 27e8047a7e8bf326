"""Value of an action chunk: weighted scores of the desired answers over time.

    value = sum over questions i and sub-chunks k of w_i * score(desired answer_i at k)

Source: Semantic World Models (arXiv 2510.19818), where the score is the probability.
Saturated probabilities rank candidates by rounding errors, so there are three more
scores with the same ranking per question:

    probability      p                        published
    log_probability  log p                    linear for low p, saturates at p = 1
    margin           logit - logsumexp(other logits)
    tanh_margin      tanh(margin / scale)     saturates at both ends, which bounds the
                                              influence of each question

Axes: S scenes, N candidates, H actions of a chunk, A action width, K horizons,
Q questions, C answers of the answer set.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from swm_jax.arrays import Array
from swm_jax.planning.protocol import Normalise, WorldModel

Score = Literal["probability", "log_probability", "margin", "tanh_margin"]
SCORES: tuple[str, ...] = get_args(Score)


class GoalArrays(struct.PyTreeNode):
    """Desired answers and weights of each scene's goal.

    Attributes:
      answers: int32[S, Q], index of the desired answer of each question.
      weights: float32[S, Q]; 0 on padding questions, at least one nonzero per scene.
      offered: bool[S, Q, C], False on padding answers (questions with fewer than C
        answers); None without padding.
    """

    answers: Int[Array, "S Q"]
    weights: Float[Array, "S Q"]
    offered: Bool[Array, "S Q C"] | None = None


def check_goal(goal: GoalArrays, choices: int) -> None:
    """Raises a one-line ValueError if `goal` cannot rank candidates.

    Args:
      goal: the goal; if traced, only its shapes are checked.
      choices: C.
    """
    if goal.answers.ndim != 2 or goal.answers.shape != goal.weights.shape:
        raise ValueError(
            f"goal answers {goal.answers.shape} and weights {goal.weights.shape} "
            "must both be [S, Q]"
        )
    if goal.answers.shape[1] == 0:
        raise ValueError("a goal without questions cannot rank candidates")
    if any(isinstance(x, Tracer) for x in (goal.answers, goal.weights)):
        return
    answers, weights = np.asarray(goal.answers), np.asarray(goal.weights)
    if (wrong := (answers < 0) | (answers >= choices)).any():
        raise ValueError(
            f"a desired answer of the goal is {answers[wrong][0]}, expected 0 to "
            f"{choices - 1}"
        )
    if not np.isfinite(weights).all():
        raise ValueError("goal weights must be finite, found NaN or infinity")
    if (empty := ~weights.any(1)).any():
        raise ValueError(
            f"all goal weights of scene {int(empty.argmax())} are zero; "
            "at least one must not be"
        )


def desired_scores(
    world_model: WorldModel,
    context: Any,
    actions: Float[Array, "S N H A"],
    answers: Int[Array, "S Q"],
    horizons: tuple[int, ...],
    score: Score = "log_probability",
    normalise: Normalise = "answers",
    scale: float = 4.0,
    offered: Bool[Array, "S Q C"] | None = None,
) -> Float[Array, "S N K Q"]:
    """Score of the desired answer to every question at every horizon.

    Args:
      world_model, context, actions, horizons, normalise: as in `WorldModel`.
      answers, offered: see `GoalArrays`.
      score: one of `SCORES`.
      scale: margin, in logits, at which `tanh_margin` begins to saturate.

    Raises:
      ValueError: unknown `score`, or different numbers of answers in world model and
        goal.
    """
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}, expected one of {SCORES}")
    if score.endswith("probability"):
        log_probs = world_model.answer_log_probs(context, actions, horizons, normalise)
        desired = _pick(log_probs, answers)
        if offered is not None and normalise == "answers":
            # Renormalise over the real answers, without the padding answers.
            left = _without(log_probs, ~_over(offered, log_probs))
            desired = desired - jax.nn.logsumexp(left, -1)
        return jnp.exp(desired) if score == "probability" else desired
    logits = world_model.answer_logits(context, actions, horizons)
    hot = jax.nn.one_hot(answers, logits.shape[-1], dtype=bool)[:, None, None]
    if offered is not None:
        hot = hot | ~_over(offered, logits)
    others = jax.nn.logsumexp(_without(logits, hot), -1)
    margin = _pick(logits, answers) - others
    return jnp.tanh(margin / scale) if score == "tanh_margin" else margin


def chunk_value(
    scores: Float[Array, "S N K Q"], weights: Float[Array, "S Q"]
) -> tuple[Float[Array, "S N"], Bool[Array, "S N"]]:
    """Weighted sum of scores over questions and sub-chunks.

    A goal reached by the first sub-chunk counts at all K horizons, which favours fast
    plans.

    Returns:
      Values, -inf where a score with nonzero weight is NaN or infinite; and a mask of
      those candidates.
    """
    counts = (weights != 0)[:, None, None]
    bad = unusable_answers(scores, weights).any(-1)
    heard = jnp.where(counts, scores, 0.0).sum(2)
    # Summed question by question: padding questions of weight zero then do not change a
    # bit of the sum, so an episode is the same in any batch.
    values = jnp.zeros(heard.shape[:2])
    for q in range(weights.shape[1]):
        values += weights[:, None, q] * heard[..., q]
    return jnp.where(bad, -jnp.inf, values), jnp.asarray(bad)


def unusable_answers(
    scores: Float[Array, "S N K Q"], weights: Float[Array, "S Q"]
) -> Bool[Array, "S N Q"]:
    """Questions of nonzero weight with a NaN or infinite score at some horizon."""
    return ~jnp.isfinite(scores).all(2) & (weights != 0)[:, None]


def _over(offered, x):
    """`offered`, broadcastable to the axes [S, N, K, Q, C] of `x`."""
    if offered.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"the world model chooses among {x.shape[-1]} answers, the goal offers "
            f"{offered.shape[-1]}"
        )
    return offered[:, None, None]


def _without(x, mask):
    """x with -inf where `mask` is True."""
    return jnp.where(mask, -jnp.inf, x)


def _pick(x: Float[Array, "S N K Q C"], answers: Int[Array, "S Q"]) -> jax.Array:
    """x[s, n, k, q, answers[s, q]]."""
    # A gather: a one-hot product would turn another answer's infinity into NaN.
    index = jnp.broadcast_to(answers[:, None, None, :, None], (*x.shape[:-1], 1))
    return jnp.take_along_axis(x, index, -1)[..., 0]
