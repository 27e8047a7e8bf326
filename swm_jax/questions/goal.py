"""A goal: questions, desired answers and weights.

Axes: Q questions of a goal.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from swm_jax.questions.question import FreeQuestion, Question, check_on_board


@dataclasses.dataclass(frozen=True, eq=False)
class Goal:
    """Questions about the future with desired answers and weights.

    Attributes:
      questions: Q questions about the future scene.
      answers: int32[Q], index of each desired answer in its answer set.
      weights: float32[Q], at least one nonzero.
      answer_sets: Q tuples of at least two answers; None for those of the question
        types, which the simulator uses.

    Raises:
      ValueError: no questions, or answers, weights and answer sets that do not fit.
    """

    questions: tuple[Question | FreeQuestion, ...]
    answers: Int[np.ndarray, " Q"]
    weights: Float[np.ndarray, " Q"]
    answer_sets: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self):
        answers = np.asarray(self.answers, np.int32)
        weights = np.asarray(self.weights, np.float32)
        object.__setattr__(self, "questions", tuple(self.questions))
        object.__setattr__(self, "answers", answers)
        object.__setattr__(self, "weights", weights)
        count = len(self.questions)
        if not count:
            raise ValueError("a goal needs at least one question")
        if answers.shape != (count,) or weights.shape != (count,):
            raise ValueError(
                f"a goal of {count} questions needs {count} answers and weights, got "
                f"shapes {answers.shape} and {weights.shape}"
            )
        sets = self.answer_sets
        sets = [q.answers for q in self.questions] if sets is None else sets
        sets = tuple(map(tuple, sets))
        object.__setattr__(self, "answer_sets", sets)
        if len(sets) != count:
            raise ValueError(f"{count} questions need {count} answer sets")
        for each, answer in zip(sets, answers):
            if len(each) < 2 or len(set(each)) < len(each):
                raise ValueError(f"an answer set needs distinct answers, got {each}")
            if not 0 <= answer < len(each):
                raise ValueError(f"answers index {each}, got {answers.tolist()}")
        if not np.isfinite(weights).all() or not weights.any():
            raise ValueError(
                f"weights must be finite and not all zero, got {weights.tolist()}"
            )

    @property
    def offered(self) -> tuple[tuple[str, ...], ...]:
        """The answer set of each question."""
        assert self.answer_sets is not None  # set in __post_init__
        return self.answer_sets

    def describe(self) -> str:
        """One line per question: weight, words, desired answer."""
        return "\n".join(
            f"{weight:+.2f}  {asked.text}  {offered[answer]}"
            for asked, answer, weight, offered in zip(
                self.questions, self.answers, self.weights, self.offered
            )
        )


def make_goal(items: Sequence[tuple], block_ids=None) -> Goal:
    """A goal from (question, desired answer, weight) triples.

    Args:
      items: at least one triple; an optional fourth member is the answer set (default:
        that of the question's type).
      block_ids: ids of the blocks on the board; None skips the check of questions.

    Raises:
      ValueError: an answer outside its set, or a question about an absent block.
    """
    items = [(*item, item[0].answers)[:4] for item in items]
    for asked, answer, _, offered in items:
        if answer not in offered:
            raise ValueError(
                f"desired answer must be one of {tuple(offered)}, got {answer!r}"
            )
        if block_ids is not None and isinstance(asked, Question):
            check_on_board(asked, block_ids)
    return Goal(
        tuple(asked for asked, _, _, _ in items),
        np.array([offered.index(answer) for _, answer, _, offered in items], np.int32),
        np.array([weight for _, _, weight, _ in items], np.float32),
        tuple(tuple(offered) for _, _, _, offered in items),
    )
