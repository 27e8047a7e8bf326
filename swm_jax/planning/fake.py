"""A world model of twenty lines with a known best plan, for tests of planners.

It answers "yes" with the logit `1 - |sum of the first h actions - goal|^2 / scale`,
so that the best chunk ends at `goal`, and closed forms exist for everything.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float

from swm_jax.arrays import Array


class FakeWorldModel(struct.PyTreeNode):
    """Answers (no, yes) to "do the first h actions add up to the goal?"

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
