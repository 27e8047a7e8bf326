"""World-model protocol: the interface between planners and models or simulators.

A world model is a registered pytree, so that its parameters are arguments of a
planner's jit rather than constants. Every planner works with every world model.

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
class WorldModel(Protocol):
    """Model that answers questions about the state after the first h actions.

    Implementations without gradients with respect to actions have an attribute
    `differentiable = False`; gradient planners raise an error for them.
    """

    def encode(self, observation: Observation, questions: QuestionBatch) -> Any:
        """Encodes scenes and questions once per replan, for all candidates.

        Returns:
          Context for `answer_logits` and `answer_log_probs`, a pytree.
        """
        ...

    def answer_logits(
        self,
        context: Any,
        actions: Float[Array, "S N H A"],
        horizons: tuple[int, ...],
    ) -> Float[Array, "S N K Q C"]:
        """Logits of the answer set, not normalised."""
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
          normalise: "vocabulary": over all tokens, as published (the sum over the
            answer set may be below one); "answers": over the answer set. Equal for
            world models without a vocabulary.
        """
        ...


class FakeWorldModel(struct.PyTreeNode):
    """Analytic world model with a known optimal plan, for tests of planners.

    The logit of "yes" is `1 - |sum of the first h actions - goal|^2 / scale`, that of
    "no" is 0, so the best chunk ends at `goal`.

    Attributes:
      goal: float32[A], desired sum of the actions.
      scale: squared distance at which the logit falls from 1 to 0.
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


def is_differentiable(world_model: WorldModel | type[WorldModel]) -> bool:
    """Whether a world model, or those of a class, has gradients: its own attribute."""
    return getattr(world_model, "differentiable", True)


def check_differentiable(world_model, name: str) -> None:
    """Raises a ValueError if `world_model.differentiable` is False."""
    if not is_differentiable(world_model):
        raise ValueError(
            f"planner {name!r} climbs gradients, but {type(world_model).__name__} is "
            "not differentiable; use a sampling planner such as 'mppi' or 'cem'"
        )
