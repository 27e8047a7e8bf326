"""World models for planners out of a dynamics run: answers in words or in metres.

`words`    the model's yes and no
`margin`   the read-out of each question's margin, as a logit
`poses`    the read-outs of where every block is and goes (the peg: the eyes' vote, and
           the sum of the actions); predicates of the scene that they predict, as the
           simulator's answers are

Axes: S scenes, N candidates, H actions, K horizons, Q questions, C = 2 answers.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from experiments.planning_model import dynamics
from experiments.planning_model.eyes import BLOCKS, ORIGIN, UNIT, read_patches
from experiments.planning_model.run_folder import load_state
from swm_jax.baselines.simulator import LOGIT_METRES
from swm_jax.envs import Scene
from swm_jax.envs.board_geometry import PEG_BOX, PLANNER_ACTION_LIMIT
from swm_jax.models import SemanticWorldModel, Tokenizer
from swm_jax.models.preprocess import preprocess_image
from swm_jax.questions import predicates

JUDGES = ("words", "margin", "poses")


@struct.dataclass
class MetricContext:
    """What `encode` keeps: keys of image, questions and prompts, and the present."""

    context: Any
    scene: Scene
    type_id: Any
    args: Any


@struct.dataclass
class MetricWorldModel:
    """A dynamics run behind the planners' protocol.

    Attributes:
      params: `model` and `heads` of the run, `eyes` the tower's own read-outs.
      prompt: int32[8, T], tokens of "detect ..." per slot.
      judge: one of `JUDGES`.
      bound: metres to which margins of poses are bounded; 0 leaves them alone.
    """

    params: Any
    prompt: Any
    yes_no: Any
    judge: str = struct.field(pytree_node=False, default="poses")
    bound: float = 0.0

    differentiable = True

    def encode(self, observation, questions) -> MetricContext:
        """Looks once; questions and prompts run once for all candidates."""
        config = dynamics.model_config()
        image = preprocess_image(observation.image, config.image_size)
        model = self.params["model"]
        tokens, feature = SemanticWorldModel(config).apply(
            {"params": model}, image, method=lambda m, x: m.img(x)
        )
        votes = read_patches(self.params["eyes"], feature)[2] * UNIT + ORIGIN
        length = self.prompt.shape[-1]
        asked = questions.tokens
        wide = max(length, asked.shape[-1])
        more = lambda x: ((0, 0),) * (x.ndim - 1) + ((0, wide - x.shape[-1]),)
        pad = lambda x: jnp.pad(x, more(x))
        prompt = jnp.broadcast_to(pad(self.prompt), (len(image), len(BLOCKS), wide))
        tokens_in = prompt  # predicates need no words
        if self.judge != "poses":
            tokens_in = jnp.concatenate([pad(jnp.asarray(asked)), prompt], 1)
        context = SemanticWorldModel(config).apply(
            {"params": model},
            *(tokens, tokens_in, tokens_in > 0),
            method=dynamics.encode_tokens,
        )
        still = jnp.zeros((len(image), 1, 1, 2)), jnp.zeros(1, int)
        now = SemanticWorldModel(config).apply(
            {"params": model}, context, *still, method=SemanticWorldModel.imagine
        )
        prompts = now[:, 0, 0, -len(BLOCKS) :]
        place = dynamics.read(self.params["heads"]["object"], prompts)[..., :2]
        place = place * UNIT + ORIGIN
        pose = jnp.concatenate([place, jnp.zeros_like(place[..., :1])], -1)
        ids = jnp.broadcast_to(jnp.asarray(BLOCKS), pose.shape[:2])
        scene = Scene(block_pose=pose, block_id=ids, peg=votes[:, 0])
        return MetricContext(context, scene, questions.type_id, questions.args)

    def answer_logits(self, context: MetricContext, actions, horizons):
        """Logits [S, N, K, Q, 2]."""
        horizons = jnp.asarray(horizons)
        config = dynamics.model_config()
        hidden = SemanticWorldModel(config).apply(
            {"params": self.params["model"]},
            *(context.context, actions, horizons),
            method=SemanticWorldModel.imagine,
        )
        count = 0 if self.judge == "poses" else context.type_id.shape[1]
        asked, prompts = hidden[..., :count, :], hidden[..., count:, :]
        if self.judge == "words":
            rows = self.params["model"]["llm"]["embedder"]["input_embedding"]
            return (asked @ rows.T)[..., self.yes_no]
        if self.judge == "margin":
            margin = dynamics.read(self.params["heads"]["margin"], asked)[..., 0]
            margin = margin * dynamics.STEP_UNIT
        else:
            after = self.scene_after(context.scene, prompts, actions, horizons)
            at = lambda x: jnp.asarray(x)[:, None, None]
            now = predicates.expand(predicates.expand(context.scene, 2))
            margin = predicates.margin(
                at(context.type_id), at(context.args), now, predicates.expand(after)
            )
            bound = jnp.where(self.bound > 0, self.bound, jnp.inf)
            margin = jnp.clip(margin, -bound, bound)
        margin = margin / LOGIT_METRES
        return jnp.stack([-margin / 2, margin / 2], -1)

    def answer_log_probs(self, context, actions, horizons, normalise="answers"):
        """Log-softmax of the logits."""
        return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))

    def scene_after(self, scene: Scene, prompts, actions, horizons) -> Scene:
        """Scenes [S, N, K]: where the blocks are, plus what they will move."""
        out = dynamics.read(self.params["heads"]["object"], prompts)
        moved = out[..., 2:4] * dynamics.STEP_UNIT
        moved = jnp.where(horizons[:, None, None] > 0, moved, 0.0)
        pose = scene.block_pose[:, None, None]
        place = pose[..., :2] + moved
        yaw = jnp.zeros_like(place[..., :1])
        limit = PLANNER_ACTION_LIMIT
        path = jnp.cumsum(jnp.clip(actions, -limit, limit), 2)
        path = jnp.pad(path, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, horizons]
        peg = jnp.clip(scene.peg[:, None, None] + path, *PEG_BOX)
        pose = jnp.concatenate([place, yaw], -1)
        ids = jnp.broadcast_to(jnp.asarray(BLOCKS), pose.shape[:-1])
        return Scene(block_pose=pose, block_id=ids, peg=peg)


def load_world(run: Path, eyes: Path, judge: str, bound: float = 0.0):
    """A world model, its tokenizer and config of a dynamics run."""
    shape = dynamics.model_config()
    tokenizer = Tokenizer.load(shape.tokenizer)
    words = dynamics.Words.make(tokenizer, shape)
    found = dynamics.load_eyes(eyes)
    init, *_ = dynamics.make_steps(dynamics.make_config(), words, 0)
    like = jax.eval_shape(init, found)
    _, (params, _) = load_state(Path(run) / "state.npz", like)
    params = jax.tree.map(jnp.asarray, {**params, "eyes": found["eyes"]})
    model = MetricWorldModel(params, words.prompt, words.yes_no, judge, bound)
    return model, tokenizer, shape
