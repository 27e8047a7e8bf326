"""Settings and batches of the sampler of (state, actions, question, answer) tuples.

Axes: B starts, Q questions, R queries, H actions, A numbers of an action.
"""

import dataclasses

import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int

from data_pipelines.saqa.horizons import Buckets
from swm_jax import worlds
from swm_jax.choices import known
from swm_jax.questions import Language, Question
from swm_jax.records import Count, Share, Size

PLANE = 2  # worlds with positions in a plane have place targets (`PlaceTargets`)


@dataclasses.dataclass(frozen=True)
class SaqaConfig:
    """Shares of question types, answers, horizons and wordings.

    Attributes:
      buckets: horizon buckets, their shares and the planner's horizons; unset fields
        follow from the model's longest horizon (`horizons_of`).
      anchor_share: share of starts drawn for a rare answer; the others are uniform.
      change_share: share of questions about a later state for which an answer that
        differs from the present one is preferred.
      hard_share: share of questions drawn among those nearest to a threshold.
      canonical_share: share of questions in the canonical wording.
      extra: horizons proposed for each question besides its first.
      types: names of question types, of any world; a source uses those of its own
        world. None: all but the numeric ones.
      pool_starts: starts evaluated when the pools are built; None for all.
    """

    buckets: Buckets = dataclasses.field(default_factory=Buckets)
    anchor_share: Share = 0.7
    change_share: Share = 0.5
    hard_share: Share = 0.3
    canonical_share: Share = 0.4
    extra: Size = 9
    types: tuple[str, ...] | None = None
    pool_starts: Count | None = 40_000

    def __post_init__(self):
        every = [kind.name for kind in worlds.question_types().values()]
        for name in self.types or ():
            known("question type", name, every)


class SaqaBatch(struct.PyTreeNode):
    """A training batch without its pixels and tokens.

    Attributes:
      episode, t: int32[B], the starts: row of the episode, frame.
      actions: float32[B, H, A], zeros behind an episode's end.
      type_id: int32[B, Q]; args: int32[B, Q, 3]; phrasing: int32[B, Q].
      question_valid: bool[B, Q]; a padding question repeats the first.
      query_question: int32[B, R], index into Q.
      query_horizon: int32[B, R]; never beyond an episode's end.
      query_answer: int32[B, R], index into the type's answers.
      query_now: int32[B, R], the answer to the same question at horizon 0.
      query_margin: float32[B, R], value of the type's rule, in metres.
      query_type: int32[B, R].
      query_valid: bool[B, R], False on padding queries.
      language: of the questions.
    """

    episode: Int[np.ndarray, " B"]
    t: Int[np.ndarray, " B"]
    actions: Float[np.ndarray, "B H A"]
    type_id: Int[np.ndarray, "B Q"]
    args: Int[np.ndarray, "B Q 3"]
    phrasing: Int[np.ndarray, "B Q"]
    question_valid: Bool[np.ndarray, "B Q"]
    query_question: Int[np.ndarray, "B R"]
    query_horizon: Int[np.ndarray, "B R"]
    query_answer: Int[np.ndarray, "B R"]
    query_now: Int[np.ndarray, "B R"]
    query_margin: Float[np.ndarray, "B R"]
    query_type: Int[np.ndarray, "B R"]
    query_valid: Bool[np.ndarray, "B R"]
    language: Language = struct.field(pytree_node=False)

    def questions(self) -> list[list[Question]]:
        """The questions of every start; `.text` has their words."""
        return [
            [Question(self.language.kind(int(i)), a, p) for i, a, p in zip(*row)]
            for row in zip(self.type_id, self.args, self.phrasing)
        ]
