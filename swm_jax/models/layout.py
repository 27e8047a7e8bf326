"""Token layouts: segments of a sequence, their RoPE positions and attention masks.

A layout is data: a dict of `Segment`s. A segment is a block of tokens with named
leading axes; its `Sight`s list the segments whose keys it attends to, with masks. Keys
broadcast along every axis that the segment has and the source lacks, without a copy:
one image's keys serve all questions, candidates and horizons.

    branched  image | questions, each sees the image | actions, causal | answers
    block     image | actions, causal | questions, each sees the actions up to its
              horizon | answers
    full      one bidirectional prefix per query: image, actions, bos, question,
              newline; the answer is causal (the published model)

Answer tokens can also run after the newline's keys have been cached, for scoring long
answers and for generation (`reply_segment`).

RoPE positions depend neither on padding nor, except for answers, on the horizon, so
that cached keys serve every candidate, question and horizon:

    image token i          i                      i = 0 .. I-1
    question token j       I + j                  every question starts at I
    action t               I + T_max + t          t = 0 .. H-1
    answer token m of      I + T_max + h + m      newline is m = 0, then the
    horizon h                                     answer and eos, causal

I is the number of image tokens, T_max the padded question length; both are constants of
the model. Horizon h is the state after actions 0 .. h - 1, so its newline has the
position after action h - 1.

In a model with object tokens (`objects`) those of the image are its last image tokens;
future tokens, one per object, chunk and horizon, attend to image, past actions and one
another and have the position of the newline; answers attend to them.

Axis letters: b images or scenes, i image tokens, q questions, t question tokens,
a actions, r training queries, c candidates or chunks of an image, h horizons,
o objects, m answer tokens (newline first), j alternative answers to one query, s key
tokens.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from swm_jax.arrays import Array


@dataclasses.dataclass(frozen=True)
class PositionRule:
    """RoPE positions of one model's tokens (table in the module docstring).

    Attributes:
      image_tokens: I, image tokens per image.
      max_question_tokens: T_max, padded length of a question.
    """

    image_tokens: int
    max_question_tokens: int

    @property
    def action_start(self) -> int:
        """Position of action 0, and of the newline at horizon 0."""
        return self.image_tokens + self.max_question_tokens

    def image(self) -> Int[Array, " I"]:
        """Positions of the image tokens."""
        return jnp.arange(self.image_tokens, dtype=jnp.int32)

    def question(self, length: int | None = None) -> Int[Array, " T"]:
        """Positions of a question's tokens, including padding (which is masked).

        Raises:
          ValueError: more tokens than `max_question_tokens`.
        """
        length = self.max_question_tokens if length is None else length
        if length > self.max_question_tokens:
            raise ValueError(
                f"a question of {length} tokens is longer than the model's "
                f"max_question_tokens={self.max_question_tokens}"
            )
        return self.image_tokens + jnp.arange(length, dtype=jnp.int32)

    def actions(self, count: int) -> Int[Array, " H"]:
        """Positions of `count` action tokens."""
        return self.action_start + jnp.arange(count, dtype=jnp.int32)

    def answers(self, horizons: Int[Array, "..."], length: int) -> Int[Array, "... M"]:
        """Positions of `length` tokens, newline first, at each horizon."""
        offsets = jnp.arange(length, dtype=jnp.int32)
        return self.action_start + jnp.asarray(horizons)[..., None] + offsets


@dataclasses.dataclass(frozen=True)
class Sight:
    """One set of keys that a segment attends to.

    Attributes:
      source: name of the segment whose keys are attended to.
      axes: leading axes of those keys (after `select`), without the key axis s.
      positions: int32[..., 1, s] of those keys, broadcastable to [*segment axes, s];
        used by sliding-window layers.
      mask: bool, broadcastable to [*segment axes, s]; None attends to every key.
      select: optional float[b, r, q] of one-hot rows: the question of each query.
    """

    source: str
    axes: str
    positions: Int[Array, "... s"]
    mask: Bool[Array, "..."] | None = None
    select: Float[Array, "b r q"] | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
    """A block of tokens with common attention rules.

    Attributes:
      axes: a letter for every axis of `tokens` but the width, the token axis last.
      tokens: float[*axes, width], embedded.
      positions: int32, broadcastable to [*axes].
      sight: key sets of the tokens' attention, the segment's own included.
    """

    axes: str
    tokens: Float[Array, "... W"]
    positions: Int[Array, "..."]
    sight: tuple[Sight, ...]


Layout = dict[str, Segment]


def image_segment(rule: PositionRule, tokens: Float[Array, "b i W"]) -> Segment:
    """Image tokens with bidirectional attention among themselves."""
    return Segment("bi", tokens, rule.image(), (see_image(rule),))


def see_image(rule: PositionRule) -> Sight:
    """Attention to all image tokens."""
    return Sight("image", "b", rule.image()[None])


def see_question(
    rule: PositionRule,
    axes: str,
    mask: Bool[Array, "... s"],
    select: Float[Array, "b r q"] | None = None,
) -> Sight:
    """Attention to the real tokens of a question.

    Args:
      axes: leading axes of its keys, after `select`.
      mask: real tokens, broadcastable to [*segment axes, s].
      select: see `Sight`.
    """
    positions = rule.question(mask.shape[-1])[None]
    return Sight("question", axes, positions, mask, select)


def question_segment(
    rule: PositionRule,
    tokens: Float[Array, "b q t W"],
    mask: Bool[Array, "b q t"],
) -> Segment:
    """Questions of the `branched` layout: each attends to the image and itself."""
    own = see_question(rule, "bq", mask[:, :, None, :])
    positions = rule.question(tokens.shape[-2])
    return Segment("bqt", tokens, positions, (see_image(rule), own))


def action_segment(rule: PositionRule, tokens: Float[Array, "b *c a W"]) -> Segment:
    """Action tokens, causal, one chunk per image, or several."""
    lead, count = "bc"[: tokens.ndim - 2], tokens.shape[-2]
    positions = rule.actions(count)
    own = Sight("action", lead, positions[None], jnp.tri(count, dtype=bool))
    return Segment(lead + "a", tokens, positions, (see_image(rule), own))


def block_question_segment(
    rule: PositionRule,
    axes: str,
    tokens: Float[Array, "... t W"],
    mask: Bool[Array, "... t"],
    actions: Sight,
) -> Segment:
    """Questions of the `block` layout, one per query, after its past actions."""
    own = see_question(rule, axes[:-1], mask[..., None, :])
    positions = rule.question(tokens.shape[-2])
    return Segment(axes, tokens, positions, (see_image(rule), actions, own))


def answer_segment(
    rule: PositionRule,
    axes: str,
    tokens: Float[Array, "... m W"],
    horizons: Int[Array, "..."],
    *seen: Sight,
) -> Segment:
    """Newline and answer tokens, causal, after the image and what else they see.

    Args:
      seen: of the question, the past actions and, with object tokens, their futures.
    """
    count = tokens.shape[-2]
    positions = rule.answers(horizons, count)
    own = _see_earlier("answer", axes[:-1], positions)
    return Segment(axes, tokens, positions, (see_image(rule), *seen, own))


def future_segment(
    rule: PositionRule,
    axes: str,
    tokens: Float[Array, "... o W"],
    horizons: Int[Array, "..."],
    actions: Sight,
) -> Segment:
    """Future tokens of all objects at each horizon, bidirectional."""
    count = tokens.shape[-2]
    own = see_future(rule, axes[:-1], horizons, count)
    positions = jnp.broadcast_to(
        rule.answers(horizons, 1), (*jnp.shape(horizons), count)
    )
    return Segment(axes, tokens, positions, (see_image(rule), actions, own))


def see_future(
    rule: PositionRule, axes: str, horizons: Int[Array, "..."], count: int
) -> Sight:
    """Attention to the future tokens of a query's horizon.

    Args:
      rule: positions.
      axes: leading axes of their keys.
      horizons: int32, broadcastable to the leading axes of the attending segment.
      count: number of objects.
    """
    positions = rule.answers(horizons, 1)[..., None, :]
    positions = jnp.broadcast_to(positions, (*positions.shape[:-1], count))
    return Sight("future", axes, positions)


def reply_segment(
    newline: Segment,
    tokens: Float[Array, "... m W"],
    start: Int[Array, ""] | int = 0,
    earlier: Sight | None = None,
) -> Segment:
    """Answer tokens that continue a cached segment ending with the newline.

    They attend to all keys of the newline and the newline itself, cached under its
    segment's name "answer", and causally to one another.

    Args:
      newline: a segment of newlines, or of whole prompts that end with one.
      tokens: leading axes of the newline, optionally followed by an axis j of
        alternative answers.
      start: number of answer tokens that ran before these.
      earlier: attention to those, if any.
    """
    lead = newline.axes[:-1]
    if tokens.ndim - 2 > len(lead):
        lead += "j"
    # All tokens use the newline's row of every mask; an axis j is inserted before it.
    gap = (None,) * (len(lead) - len(newline.axes) + 1)
    row = lambda x: None if x is None else x[(..., *gap, slice(-1, None), slice(None))]
    seen = tuple(
        dataclasses.replace(s, positions=row(s.positions), mask=row(s.mask))
        for s in newline.sight
    )
    count = tokens.shape[-2]
    behind = newline.positions[(..., *gap, slice(-1, None))] + 1 + start
    positions = behind + jnp.arange(count, dtype=jnp.int32)
    own = _see_earlier("reply", lead, positions)
    seen += (own,) if earlier is None else (earlier, own)
    return Segment(lead + "m", tokens, positions, seen)


def see_reply(newline: Segment, length: int, count: Int[Array, ""] | int) -> Sight:
    """Attention to the first `count` of `length` generated tokens.

    Their keys are cached under the name "earlier".
    """
    places = jnp.arange(length, dtype=jnp.int32)
    positions = newline.positions[..., -1:, None] + 1 + places
    return Sight("earlier", newline.axes[:-1], positions, places[None] < count)


def past_actions(
    rule: PositionRule, axes: str, horizons: Int[Array, "..."], count: int
) -> Sight:
    """Attention to the actions before each query's horizon.

    Args:
      rule: positions.
      axes: leading axes of the actions' keys, "b" or "bc".
      horizons: int32, one per query.
      count: H, actions of a chunk.
    """
    # Action t has happened at horizon h if t < h; no action at h = 0.
    mask = jnp.arange(count) < horizons[..., None, None]
    return Sight("action", axes, rule.actions(count)[None], mask)


def _see_earlier(source: str, axes: str, positions: Int[Array, "... m"]) -> Sight:
    """Causal attention of a segment to its own tokens."""
    causal = jnp.tri(positions.shape[-1], dtype=bool)
    return Sight(source, axes, positions[..., None, :], causal)


def full_layout(
    axes: str,
    parts: list[tuple[Float[Array, "..."], Bool[Array, "..."] | None]],
    answer_length: int,
    bidirectional: int | None = None,
) -> Layout:
    """The `full` layout: one sequence per query, concatenated from parts.

    Positions count the real tokens from 1, as published.

    Args:
      axes: axes of the sequences, the token axis last.
      parts: (tokens [..., n, W], mask of real tokens [..., n] or None) in order; the
        last part is newline and answer.
      answer_length: tokens of the last part; only its newline is in the prefix.
      bidirectional: length of the bidirectional prefix; None: up to the newline.
    """
    whole = [
        (x, jnp.ones(x.shape[:-1], bool) if mask is None else mask) for x, mask in parts
    ]
    lead = jnp.broadcast_shapes(
        *[tokens.shape[:-2] for tokens, _ in whole],
        *[mask.shape[:-1] for _, mask in whole],
    )
    wide = lambda x, n: jnp.broadcast_to(x, (*lead, *x.shape[x.ndim - n :]))
    tokens = jnp.concatenate([wide(tokens, 2) for tokens, _ in whole], -2)
    valid = jnp.concatenate([wide(mask, 1) for _, mask in whole], -1)
    length = tokens.shape[-2]
    if bidirectional is None:
        bidirectional = length - answer_length + 1  # + 1 for the newline
    in_prefix = jnp.arange(length) < bidirectional
    sees = valid[..., None, :] & (jnp.tri(length, dtype=bool) | in_prefix)
    positions = jnp.cumsum(valid, -1, dtype=jnp.int32)
    own = Sight("answer", axes[:-1], positions[..., None, :], sees)
    return {"answer": Segment(axes, tokens, positions, (own,))}
