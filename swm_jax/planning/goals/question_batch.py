"""Conversion of goals and questions to padded arrays.

All scenes of a batch have Q questions: shorter lists repeat their last question with
weight 0, so that other goals do not recompile.

Axes: S scenes, Q questions, T tokens of a padded question, C answers, L tokens of a
padded answer.
"""

from collections.abc import Sequence

import numpy as np

from swm_jax.models import QuestionBatch
from swm_jax.models.ask import encode_answers
from swm_jax.models.tokenizer import Tokenizes
from swm_jax.models.types import PAD_TOKEN
from swm_jax.planning.goals.value import GoalArrays, check_goal
from swm_jax.questions import FreeQuestion, Question


def question_batch(
    questions: Sequence[Sequence[Question | FreeQuestion]],
    tokenizer: Tokenizes | None = None,
    length: int | None = None,
    count: int | None = None,
    answer_sets: Sequence[Sequence[tuple[str, ...]]] | None = None,
) -> QuestionBatch:
    """Stacks one list of questions per scene.

    Args:
      questions: S lists; shorter ones repeat their last question.
      tokenizer: None gives masked dummy `tokens` (T = 1), for the simulator.
      length: T, the model's `max_question_tokens`; needed with a tokenizer.
      count: Q, at least the longest list; None takes its length.
      answer_sets: one tuple of answers per question; None for those of the question's
        type. Shorter sets repeat their last answer up to C. If any answer of a set has
        several tokens, all of the set end with eos.

    Raises:
      ValueError: no scenes, a scene without questions, or with more than `count`;
        words unknown to the tokenizer.
    """
    sizes = [len(each) for each in questions]
    if not sizes or min(sizes) == 0:
        raise ValueError(f"every scene needs a question, got lists of {sizes}")
    count = max(sizes) if count is None else count
    if max(sizes) > count:
        raise ValueError(f"{max(sizes)} questions in a scene, room for {count}")
    padded = [_pad(each, count) for each in questions]
    if answer_sets is None:
        answer_sets = [[q.answers for q in each] for each in questions]
    offered = [_pad(each, count) for each in answer_sets]
    widest = max(len(words) for each in offered for words in each)
    shape = (len(padded), count)
    type_id = np.array([[q.type_id for q in each] for each in padded])
    args = np.array([[q.args for q in each] for each in padded])
    if tokenizer is None:
        tokens = np.zeros((*shape, 1), np.int32)
        mask = np.zeros((*shape, 1), bool)
        answers = [[_pad(range(len(w)), widest) for w in each] for each in offered]
    else:
        if length is None:
            raise ValueError("a tokenizer needs the length of a padded question")
        # Many scenes share questions: each distinct text is tokenised once.
        texts = [q.text for each in padded for q in each]
        distinct = sorted(set(texts))
        tokens, mask = map(np.asarray, tokenizer.encode_batch(distinct, length))
        rows = np.searchsorted(distinct, texts).reshape(shape)
        tokens, mask = tokens[rows], mask[rows]
        answers = _answer_ids(offered, tokenizer, widest)
    return QuestionBatch(
        tokens=tokens.astype(np.int32),
        mask=mask.astype(bool),
        type_id=type_id.astype(np.int32),
        args=args.astype(np.int32),
        answer_ids=np.array(answers, np.int32),
    )


def goal_batch(
    goals: Sequence,
    tokenizer: Tokenizes | None = None,
    length: int | None = None,
    count: int | None = None,
) -> tuple[QuestionBatch, GoalArrays]:
    """Stacks one `swm_jax.questions.Goal` per scene.

    Raises:
      ValueError: as `question_batch`, or weights that are all zero or not finite.
    """
    sets = [
        getattr(g, "answer_sets", None) or [q.answers for q in g.questions]
        for g in goals
    ]
    batch = question_batch([g.questions for g in goals], tokenizer, length, count, sets)
    wide = batch.type_id.shape[1]
    answers = np.zeros((len(goals), wide), np.int32)
    weights = np.zeros((len(goals), wide), np.float32)
    # Padding questions keep weight 0.
    for s, goal in enumerate(goals):
        answers[s, : len(goal.questions)] = np.asarray(goal.answers)
        weights[s, : len(goal.questions)] = np.asarray(goal.weights)
    sizes = np.array([[len(words) for words in _pad(each, wide)] for each in sets])
    widest = batch.answer_ids.shape[2]
    # Answer sets of one size, such as yes and no, need no mask.
    offered = None
    if (sizes != widest).any():
        offered = np.arange(widest) < sizes[..., None]
    arrays = GoalArrays(answers, weights, offered)
    check_goal(arrays, widest)
    return batch, arrays


def _answer_ids(offered, tokenizer: Tokenizes, widest: int) -> np.ndarray:
    """int32[S, Q, C], or [S, Q, C, L] if any answer has several tokens."""
    sets = {words for each in offered for words in each}
    rows = {words: encode_answers(tokenizer, words) for words in sets}
    several = max(ids.shape[1] for ids in rows.values())
    for words, ids in rows.items():
        gaps = (0, widest - len(words)), (0, several - ids.shape[1])
        ids = np.pad(ids, (gaps[0], (0, 0)), mode="edge")
        rows[words] = np.pad(ids, ((0, 0), gaps[1]), constant_values=PAD_TOKEN)
    answers = np.array([[rows[words] for words in each] for each in offered])
    return answers if several > 1 else answers[..., 0]


def _pad(items: Sequence, count: int) -> list:
    """The items, the last one repeated up to `count`."""
    return [*items, *[items[-1]] * (count - len(items))]
