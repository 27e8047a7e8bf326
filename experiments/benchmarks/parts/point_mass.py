"""Point mass with a goal behind a round obstacle, to compare planners.

Dynamics and cost are shared by both libraries (`xp` is `jax.numpy` or `torch`). As a
world model it answers one question, whose margin is minus the cost, so that our
planners minimise the same cost as the others.

Axes: S scenes, N candidates, H actions, K = 1 horizon, Q = 1 question, C = 2 answers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from swm_jax.models import MAX_ARGS, Observation, QuestionBatch
from swm_jax.planning import GoalArrays

LIMIT = 0.03  # largest action per dimension
GOAL = (0.30, 0.04)
OBSTACLE, RADIUS = (0.15, 0.01), 0.06


def step(xp, state, action):
    """Next state [..., 4] (position and velocity) after an action [..., 2]."""
    velocity = 0.8 * state[..., 2:] + 0.5 * action
    return xp.concatenate([state[..., :2] + velocity, velocity], -1)


def running_cost(xp, state, action):
    """Squared distance to the goal in decimetres, the obstacle, a little effort."""
    x, y = state[..., 0], state[..., 1]
    far = (x - GOAL[0]) ** 2 + (y - GOAL[1]) ** 2
    near = (x - OBSTACLE[0]) ** 2 + (y - OBSTACLE[1]) ** 2
    effort = (action**2).sum(-1)
    return 100 * far + 5 * xp.exp(-near / RADIUS**2) + 10 * effort


def chunk_cost(actions):
    """Total cost [...] of actions [..., H, 2] from rest at the origin, in JAX."""
    start = jnp.zeros((*actions.shape[:-2], 4))

    def advance(state, action):
        state = step(jnp, state, action)
        return state, running_cost(jnp, state, action)

    return jax.lax.scan(advance, start, jnp.moveaxis(actions, -2, 0))[1].sum(0)


@struct.dataclass
class PointMass:
    """World model whose margin for "yes" is minus the cost of the whole chunk."""

    def encode(self, observation, questions):
        return jnp.zeros(questions.type_id.shape)

    def answer_logits(self, context, actions, horizons):
        assert horizons == (actions.shape[2],)
        yes = -chunk_cost(actions)[:, :, None, None] + context[:, None, None]
        return jnp.stack([jnp.zeros_like(yes), yes], -1)

    def answer_log_probs(self, context, actions, horizons, normalise="answers"):
        return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))


def question(scenes: int = 1):
    """Placeholder observation, questions and goal, which the point mass ignores."""
    ids = np.zeros((scenes, 1), np.int32)
    questions = QuestionBatch(
        tokens=ids[..., None],
        mask=ids[..., None] == 0,
        type_id=ids,
        args=np.repeat(ids[..., None], MAX_ARGS, -1),
        answer_ids=np.stack([ids, ids + 1], -1),
    )
    image = np.zeros((scenes, 1, 1, 3), np.uint8)
    goal = GoalArrays(ids + 1, np.ones((scenes, 1), np.float32))
    return Observation(image=image), questions, goal
