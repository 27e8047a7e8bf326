"""From goals, which people write, to arrays, which world models read.

Scenes planned together may ask different questions; all get the same number Q, the
shorter lists padded with a repeated question of weight 0, so that nothing recompiles
when goals change.

Axes: S scenes, Q questions, T tokens of a padded question, C answers.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from swm_jax.models import QuestionBatch
from swm_jax.planning.value import GoalArrays, check_goal
from swm_jax.questions import ANSWERS, TYPES, Question


class Tokenizes(Protocol):
    """What is needed of a tokenizer, such as `swm_jax.models.Tokenizer`."""

    def encode_batch(
        self, texts: list[str], length: int
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def answer_id(self, answer: str) -> int: ...


def question_batch(
    questions: Sequence[Sequence[Question]],
    tokenizer: Tokenizes | None = None,
    length: int | None = None,
    count: int | None = None,
) -> QuestionBatch:
    """Stacks one list of questions per scene.

    Args:
      questions: S lists; shorter ones repeat their last question.
      tokenizer: None leaves `tokens` empty (T = 1), which is enough for a simulator.
      length: T, the model's `max_question_tokens`; needed with a tokenizer.
      count: Q, at least the longest list; None takes exactly that.

    Raises:
      ValueError: no scenes, a scene without questions, or more than `count`.
    """
    sizes = [len(each) for each in questions]
    if not sizes or min(sizes) == 0:
        raise ValueError(f"every scene needs a question, got lists of {sizes}")
    count = max(sizes) if count is None else count
    if max(sizes) > count:
        raise ValueError(f"{max(sizes)} questions in a scene, room for {count}")
    padded = [[*each, *[each[-1]] * (count - len(each))] for each in questions]
    shape = (len(padded), count)
    type_id = np.array([[TYPES.index(q.type) for q in each] for each in padded])
    args = np.array([[q.args for q in each] for each in padded])
    if tokenizer is None:
        tokens = np.zeros((*shape, 1), np.int32)
        mask = np.zeros((*shape, 1), bool)
        answers = np.arange(len(ANSWERS))
    else:
        if length is None:
            raise ValueError("a tokenizer needs the length of a padded question")
        texts = [q.text for each in padded for q in each]
        distinct = sorted(set(texts))
        tokens, mask = map(np.asarray, tokenizer.encode_batch(distinct, length))
        rows = np.searchsorted(distinct, texts).reshape(shape)
        tokens, mask = tokens[rows], mask[rows]
        answers = np.array([tokenizer.answer_id(answer) for answer in ANSWERS])
    return QuestionBatch(
        tokens=tokens.astype(np.int32),
        mask=mask.astype(bool),
        type_id=type_id.astype(np.int32),
        args=args.astype(np.int32),
        answer_ids=np.broadcast_to(answers, (*shape, len(ANSWERS))).astype(np.int32),
    )


def goal_batch(
    goals: Sequence,
    tokenizer: Tokenizes | None = None,
    length: int | None = None,
    count: int | None = None,
) -> tuple[QuestionBatch, GoalArrays]:
    """Stacks one `swm_jax.questions.goals.Goal` per scene.

    Raises:
      ValueError: as `question_batch`, or weights that are all zero or not finite.
    """
    batch = question_batch([g.questions for g in goals], tokenizer, length, count)
    count = batch.type_id.shape[1]
    answers = np.zeros((len(goals), count), np.int32)
    weights = np.zeros((len(goals), count), np.float32)
    for s, goal in enumerate(goals):
        answers[s, : len(goal.questions)] = np.asarray(goal.answers)
        weights[s, : len(goal.questions)] = np.asarray(goal.weights)
    arrays = GoalArrays(answers, weights)
    check_goal(arrays)
    return batch, arrays
