"""The protocol in the middle: everything that answers questions about the future.

A world model is a registered pytree: its parameters are arguments of a planner's
jit, never constants baked into it. Every planner works with every world model.

Axes: S scenes, N candidates, H actions of a chunk, A action width, K horizons,
Q questions, C answers of the answer set.
"""

from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.models import Observation, QuestionBatch

Normalise = Literal["vocabulary", "answers"]


@runtime_checkable
@runtime_checkable
class WorldModel(Protocol):
    """Answers questions about the state after the first h actions of a chunk.

    Implementations through which no gradient reaches the actions say so with an
    attribute `differentiable = False`; planners that need gradients then refuse.
    """

    def encode(self, observation: Observation, questions: QuestionBatch) -> Any:
        """Does once per replan what no candidate changes.

        Returns:
          A pytree that `answer_logits` and `answer_log_probs` understand.
        """
        ...

    def answer_logits(
        self,
        context: Any,
        actions: Float[Array, "S N H A"],
        horizons: tuple[int, ...],
    ) -> Float[Array, "S N K Q C"]:
        """Logits of the answer set before normalisation, for margins."""
        ...

    def answer_log_probs(
        self,
        context: Any,
        actions: Float[Array, "S N H A"],
        horizons: tuple[int, ...],
        normalise: Normalise = "answers",
    ) -> Float[Array, "S N K Q C"]:
        """Log-probability of every answer at every horizon.

        Args:
          context: what `encode` returned.
          actions: raw action units.
          horizons: K static horizons in 0..H; 0 asks about the present.
          normalise: "vocabulary" gives the published probabilities (they need
            not sum to one over the answer set), "answers" renormalises over the
            answer set. A world model without a vocabulary gives the same for both.
        """
        ...


class FakeWorldModel(struct.PyTreeNode):
    """Answers (no, yes) to "do the first h actions add up to the goal?"

    A world model with a known best plan, for tests of planners. The logit of "yes" is
    `1 - |sum of the first h actions - goal|^2 / scale`, so that the best chunk ends at
    `goal`, and closed forms exist for everything.

    Attributes:
      goal: float32[A], where the summed actions should lead.
      scale: squared distance that turns the logit from 1 to 0.
    """

    goal: Float[Array, " A"]
    scale: float = 1e-3

    def encode(self, observation, questions):
        scenes, count = questions.type_id.shape
        return jnp.zeros((scenes, count)) + 0.0 * observation.image.mean()

    def answer_logits(self, context, actions, horizons):
        reached = jnp.stack([actions[:, :, :h].sum(2) for h in horizons], 2)
        yes = 1.0 - jnp.square(reached - self.goal).sum(-1) / self.scale
        yes = yes[..., None] + context[:, None, None, :]
        return jnp.stack([jnp.zeros_like(yes), yes], -1)

    def answer_log_probs(self, context, actions, horizons, normalise="answers"):
        return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))


def check_differentiable(world_model, name: str) -> None:
    """Raises a one-line ValueError if `world_model` says it has no gradients."""
    if not getattr(world_model, "differentiable", True):
        raise ValueError(
            f"planner {name!r} climbs gradients, but {type(world_model).__name__} is "
            "not differentiable; use a sampling planner such as 'mppi' or 'cem'"
        )
