"""The simulator as a world model: exact answers, an upper bound for every planner.

It simulates the actions from the observed scene and evaluates the rule of every
question. Logits are signed margins in place of 0 and 1, so that values are graded like
those of a learned model. The margin of an answer is the distance of the rule's value to
the nearest of the answer's edges, negative outside of them:

    logit(answer) = min(number - lower edge, upper edge - number) / 0.04 m
    logit(yes) - logit(no) = margin / 0.02 m

Two kinds of error can be added, to measure the robustness of goals: noise on observed
poses, and noise and saturation of the answers.

Axes: S scenes, N candidates, H actions of a chunk, A action width, K horizons,
Q questions, C answers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Key, UInt

from swm_jax import prng, worlds
from swm_jax.arrays import Array
from swm_jax.baselines.answerer import Answerer, Baseline
from swm_jax.envs import AnyScene, Env
from swm_jax.models import Observation, QuestionBatch
from swm_jax.planning import Normalise
from swm_jax.planning.noise import fold_in_each, split_each
from swm_jax.questions import Language, expand

LOGIT_METRES = 0.02  # margin per logit


class SimulatorContext(struct.PyTreeNode):
    """Context of `SimulatorWorldModel`.

    Attributes:
      start: env State with leading axis S, with pose noise.
      scene: scene of `start`.
      type_id, args: the questions, [S, Q] and [S, Q, 3].
      keys: random keys of the answer noise, [S].
      answers: C.
    """

    start: Any
    scene: AnyScene
    type_id: Array
    args: Array
    keys: jax.Array
    answers: int = struct.field(pytree_node=False)


class SimulatorWorldModel(struct.PyTreeNode):
    """World model with access to the simulator's state.

    Attributes:
      env: any env; traceable ones run inside the jit, others in a host callback with
        all scenes and candidates in one batch.
      pose_noise: standard deviation (metres) of the error on every position in the
        scene; a function of the scene, so repeated observations agree.
      logit_noise: standard deviation of Gaussian noise on the answer margins (logits).
      logit_limit: margins are squashed to +- this by a tanh; 0 for none.
      seed: of both kinds of noise.
    """

    env: Any = struct.field(pytree_node=False)
    pose_noise: float = 0.0
    logit_noise: float = 0.0
    logit_limit: float = 0.0
    seed: int = 0

    # No gradients: host callbacks, and while loops of the contact solver.
    differentiable = False

    def encode(
        self, observation: Observation, questions: QuestionBatch
    ) -> SimulatorContext:
        """Reads `observation.scene`, an env's state or a scene with leading axis S.

        Raises:
          ValueError: the observation has no scene.
        """
        if observation.scene is None:
            raise ValueError("the simulator world model needs observation.scene")
        start = observation.scene
        if isinstance(start, worlds.load(self.env.world).scene.kind):
            start = self.env.state_from_scene(start)
        start, keys = self._misread(start)
        asked = questions.type_id, questions.args
        answers = questions.answer_ids.shape[2]
        return SimulatorContext(start, self.env.scene(start), *asked, keys, answers)

    def answer_logits(
        self,
        context: SimulatorContext,
        actions: Float[Array, "S N H A"],
        horizons: tuple[int, ...],
    ) -> Float[Array, "S N K Q C"]:
        """Signed margins of the answers as logits."""
        scenes, candidates = actions.shape[:2]
        now = expand(context.scene, 2)  # [S, 1, 1]
        future = now
        if steps := max(horizons):
            repeat = lambda x: jnp.repeat(x, candidates, 0)
            states = jax.tree.map(repeat, context.start)
            # One batch of S x N rollouts; frame h is the state after h actions.
            flat = actions[:, :, :steps].reshape(scenes * candidates, steps, -1)
            split = lambda x: x[:, np.asarray(horizons)].reshape(
                scenes, candidates, len(horizons), *x.shape[2:]
            )
            future = jax.tree.map(split, self._rollout(states, flat))
        language, type_id = self._language, context.type_id[:, None, None]
        margin = language.margin(
            type_id, context.args[:, None, None], expand(now), expand(future)
        )
        shape = (scenes, candidates, len(horizons), context.type_id.shape[1])
        margin = jnp.broadcast_to(margin / LOGIT_METRES, shape)
        margin = self._stir(margin, context.keys, actions)[..., None]
        edges = jnp.asarray(language.edges[:, : context.answers - 1])[type_id]
        ends = jnp.full((*edges.shape[:-1], 1), jnp.inf)
        edges = jnp.concatenate([-ends, edges / LOGIT_METRES, ends], -1)
        inside = jnp.minimum(margin - edges[..., :-1], edges[..., 1:] - margin)
        # Yes and no have opposite margins: halved, their difference is the margin.
        return self._squash(inside) / 2

    def answer_log_probs(
        self,
        context: SimulatorContext,
        actions: Float[Array, "S N H A"],
        horizons: tuple[int, ...],
        normalise: Normalise = "answers",
    ) -> Float[Array, "S N K Q C"]:
        """Log-softmax over the answer set, for both values of `normalise`."""
        return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))

    @property
    def _language(self) -> Language:
        return worlds.load(self.env.world).language

    def _rollout(self, states, actions) -> AnyScene:
        if self.env.traceable:
            return self.env.rollout_batch(states, actions)
        frames = actions.shape[1] + 1
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0], frames, *x.shape[1:]), x.dtype),
            self.env.scene(states),
        )

        def host(states, actions):
            states = jax.tree.map(np.asarray, states)
            scene = self.env.rollout_batch(states, np.asarray(actions))
            return jax.tree.map(
                lambda x, s: np.asarray(x, s.dtype).reshape(s.shape), scene, shapes
            )

        return jax.pure_callback(host, shapes, states, actions)

    def _misread(self, state) -> tuple[Any, jax.Array]:
        """States with pose noise, and random keys derived from the states."""
        looks = fold_in_each(prng.key(self.seed), _bits(state.qpos))
        block, robot, keys = split_each(looks, 3)
        scene, axes = self.env.scene(state), self._language.axes
        moved = {}
        for key, name in ((block, "block_pose"), (robot, self._language.robot)):
            pose = jnp.asarray(getattr(scene, name))
            noise = self.pose_noise * _normal(key, pose.shape)
            moved[name] = pose.at[..., :axes].add(noise[..., :axes])  # positions only
        seen = self.env.state_from_scene(scene.replace(**moved))
        # Without noise the exact state: a round trip through a scene may round it.
        exact = self.pose_noise == 0
        fields = [name for name in ("qpos", "target") if hasattr(state, name)]
        read = {
            name: jnp.where(exact, getattr(state, name), getattr(seen, name))
            for name in fields
        }
        return state.replace(**read), keys

    def _stir(self, margin, keys, actions):
        # Noise is a function of scene and actions, so repeated queries agree.
        keys = fold_in_each(keys, _bits(actions))
        # One draw per question: padding questions do not change the others' noise.
        draw = lambda q: _normal(fold_in_each(keys, q), margin.shape[:-1])
        count = margin.shape[-1]
        asked = jnp.broadcast_to(jnp.arange(count)[:, None], (count, keys.shape[0]))
        noise = jax.vmap(draw, out_axes=-1)(asked)
        return margin + self.logit_noise * noise

    def _squash(self, margin):
        limit = jnp.maximum(self.logit_limit, 1e-6)
        return jnp.where(self.logit_limit > 0, limit * jnp.tanh(margin / limit), margin)


def _bits(x: Float[Array, "S ..."]) -> UInt[Array, " S"]:
    """A hash of each scene's values (sum of their bits), for `fold_in`."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return bits.sum(tuple(range(1, bits.ndim)))


def _normal(
    keys: Key[jax.Array, " S"], shape: tuple[int, ...]
) -> Float[Array, "S ..."]:
    return jax.vmap(lambda key: prng.normal(key, shape[1:]))(keys)


def _about(name: str, env: Env) -> Answerer:
    """The simulator of an env's scenes.

    External envs (adapters), whose state cannot be set from a scene, are simulated by
    our env of the same scenes.
    """
    if hasattr(env, "pictures"):
        ours = worlds.load(worlds.load(env.world).scene.domain)
        same = {k: env.config[k] for k in ours.policies.settings if k in env.config}
        env = ours.make_env(**same)
    return Answerer(name, env.world, SimulatorWorldModel(env))


BASELINES = {
    "simulator": Baseline(functools.partial(_about, "simulator"), SimulatorWorldModel),
    # Its world model is not used: the planner "random" draws the actions.
    "random": Baseline(functools.partial(_about, "random"), SimulatorWorldModel),
}
