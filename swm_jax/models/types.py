"""Shared data structs: observation, questions, training batch, its targets, outputs.

Axes: S scenes, B images of a training batch, h w pixels, Q questions, T tokens
of a padded question, C answers of the answer set, R queries per image, L tokens
of a padded answer, H actions of a chunk, A action width, P image patches, N chunks of
an image, G of their horizons, K objects, V numbers of an object's state, I image
tokens, D width of the tower, W decoder width, V vocabulary in logits.
"""

from typing import Any

import jax
from flax import struct
from jax import lax
from jaxtyping import Bool, Float, Int, UInt8

from swm_jax.arrays import Array
from swm_jax.models.backbones.attention import KeyValues
from swm_jax.models.objects import ObjectStates

PAD_TOKEN = 0  # every tokenizer of the project pads with id 0
MAX_ARGS = 3  # columns of a question's arguments


class Observation(struct.PyTreeNode):
    """Input of a world model for one replan: images, and scenes where available.

    Attributes:
      image: uint8[S, h, w, 3], RGB.
      scene: optional pytree of object poses with leading axis S; read only by
        privileged world models (the simulator).
    """

    image: UInt8[Array, "S h w 3"]
    scene: Any = None


class QuestionBatch(struct.PyTreeNode):
    """Q questions per scene, as tokens (for a VLM) and as a program (for a simulator).

    Attributes:
      tokens: int32[S, Q, T], padded right with `PAD_TOKEN`.
      mask: bool[S, Q, T], True on real tokens.
      type_id: int32[S, Q], id of the question type.
      args: int32[S, Q, 3], arguments of the type, one a column (block ids, region,
        direction); -1 where the type takes fewer.
      answer_ids: int32[S, Q, C], token id of each answer of the answer set; or
        int32[S, Q, C, L], answers of several tokens, padded right with `PAD_TOKEN`.
    """

    tokens: Int[Array, "S Q T"]
    mask: Bool[Array, "S Q T"]
    type_id: Int[Array, "S Q"]
    args: Int[Array, "S Q 3"]
    answer_ids: Int[Array, "S Q C *L"]


class DenseTargets(struct.PyTreeNode):
    """Per-patch labels of the pre-training stage.

    Attributes:
      object_id: int32[B, P], object that covers most of the patch: 0 background or
        board, 1 the peg, 2 + block id a block.
      centre: float32[B, P, 2], image position of that object's centre in
        [0, 1] (x right, y down); 0 where object_id is 0.
    """

    object_id: Int[Array, "B P"]
    centre: Float[Array, "B P 2"]


class MentionTargets(struct.PyTreeNode):
    """Image positions of the objects named in questions.

    Of each query's question; of each question where an image has several chunks.

    Attributes:
      mask: bool[B, R or Q, T], True on the last token of an object's name.
      centre: float32[B, R or Q, T, 2], image position of that object's centre in
        [0, 1] (x right, y down).
    """

    mask: Bool[Array, "B _ T"]
    centre: Float[Array, "B _ T 2"]


class PlaceTargets(struct.PyTreeNode):
    """Future positions, at the query's horizon, of the objects it asks about.

    Attributes:
      mask: bool[B, R, 3], valid entries among (first block, second block, peg).
      place: float32[B, R, 3, 2], metres on the board.
    """

    mask: Bool[Array, "B R 3"]
    place: Float[Array, "B R 3 2"]


class ObjectTargets(struct.PyTreeNode):
    """States of all objects in the image, see `objects`.

    Attributes:
      state: float32[B, K, V], coordinates in its units, cosine and sine of yaw.
      owner: int32[B, P], the object that a patch shows: 0 none, 1 + k object k; None
        where patches are not labelled.
    """

    state: Float[Array, "B K V"]
    owner: Int[Array, "B P"] | None = None


class FutureTargets(struct.PyTreeNode):
    """What N chunks do to the objects, at G horizons.

    Attributes:
      moved: float32[B, N, G, K, A], metres by which each has moved.
      turned: float32[B, N, G, K], radians in -pi..pi by which each has turned.
    """

    moved: Float[Array, "B N G K A"]
    turned: Float[Array, "B N G K"]


class TrainBatch(struct.PyTreeNode):
    """Images with one action chunk, or several, and many queries each.

    A query is (question, horizon) -> answer: "what will the answer to question
    `query_question[b, r]` be after the first `query_horizon[b, r]` actions?"

    Attributes:
      image: uint8[B, h, w, 3].
      actions: float32[B, H, A], raw action units; zeros after an episode's end. Or
        float32[B, N, H, A], N chunks from the state of the image; the R queries are
        then a grid: every chunk, at every horizon of `horizons`, every question.
      question_tokens: int32[B, Q, T], padded right.
      question_mask: bool[B, Q, T].
      query_question: int32[B, R], index into Q.
      query_horizon: int32[B, R], 0..H; 0 asks about the present.
      answer_tokens: int32[B, R, L], target tokens, padded right.
      answer_mask: bool[B, R, L], True on target tokens; all False on a padding query.
      query_type: int32[B, R], question type, for per-type metrics.
      query_weight: optional float32[B, R], weights in the mean of loss and accuracy.
      dense, mentions, places: optional targets of the auxiliary losses on patches,
        on object names in a question and on its answer.
      objects, futures: optional targets of the objects' states, and of their changes.
      horizons: int32[B, G], of a batch with several chunks per image.
    """

    image: UInt8[Array, "B h w 3"]
    actions: Float[Array, "B *N H A"]
    question_tokens: Int[Array, "B Q T"]
    question_mask: Bool[Array, "B Q T"]
    query_question: Int[Array, "B R"]
    query_horizon: Int[Array, "B R"]
    answer_tokens: Int[Array, "B R L"]
    answer_mask: Bool[Array, "B R L"]
    query_type: Int[Array, "B R"]
    query_weight: Float[Array, "B R"] | None = None
    dense: DenseTargets | None = None
    mentions: MentionTargets | None = None
    places: PlaceTargets | None = None
    objects: ObjectTargets | None = None
    futures: FutureTargets | None = None
    horizons: Int[Array, "B G"] | None = None


class Outputs(struct.PyTreeNode):
    """Outputs of a training forward pass.

    Attributes:
      logits: float32[B, R, L, V], of every answer position.
      answer_features: float[B, R, W], final hidden states at the newline, which
        predict the first answer token.
      patch_features: float[B, P, D], image tower features after its last norm.
      question_features: float[B, R or Q, T, W], hidden states of the question tokens
        of every query (of every question if there are several chunks) before layer
        depth // 2; None unless the batch has `mentions`.
      objects: read-outs of the patches; None in a model without object tokens, as
      future_features: float[B, N, G, K, W], or float[B, R, K, W] for one chunk per
        image: final hidden states of the future tokens at each horizon.
    """

    logits: Float[Array, "B R L V"]
    answer_features: Float[Array, "B R W"]
    patch_features: Float[Array, "B P D"]
    question_features: Float[Array, "B _ T W"] | None = None
    objects: ObjectStates | None = None
    future_features: Float[Array, "B ... K W"] | None = None


class Context(struct.PyTreeNode):
    """Per-scene cache: keys and values of image and questions, shared by candidates.

    Attributes:
      image: float[S, I, W], image tokens; only in the `full` layout, which has no
        cache, and in models with object tokens, which start the future tokens;
        otherwise None.
      questions: float[S, Q, T, W], embedded questions.
      question_mask: bool[S, Q, T].
      answer_ids: int32[S, Q, C], or int32[S, Q, C, L] (see `QuestionBatch`).
      cache: keys and values by segment, with a leading depth axis: "image" and, in
        the `branched` layout, "question".
      objects: read-outs of the patches; None in a model without object tokens.
    """

    image: Float[Array, "S I W"] | None
    questions: Float[Array, "S Q T W"]
    question_mask: Bool[Array, "S Q T"]
    answer_ids: Int[Array, "S Q C *L"]
    cache: KeyValues
    objects: ObjectStates | None = None

    def share(self, index: Int[Array, ""], shares: int) -> "Context":
        """Every `shares`-th scene from scene `index` on; `shares` divides S."""

        # Strided rather than contiguous: on a mesh that splits the scenes, every share
        # then has scenes of every device.
        def pick(x, axis):
            x = x.reshape(*x.shape[:axis], -1, shares, *x.shape[axis + 1 :])
            return lax.dynamic_index_in_dim(x, index, axis + 1, keepdims=False)

        cache = jax.tree.map(lambda x: pick(x, 1), self.cache)  # depth comes first
        rest = jax.tree.map(lambda x: pick(x, 0), self.replace(cache={}))
        return rest.replace(cache=cache)
