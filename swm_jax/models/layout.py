"""Token layouts: which segments a sequence has, where they stand, what they see.

A layout is data. A `Segment` is a block of tokens with named leading axes; its
`Sight`s say which segments' keys its tokens attend to and under which mask. Keys are
shared along every axis that a segment has and its source lacks, without being
copied: one image's keys serve all questions, candidates and horizons.

    branched  image | questions, each sees the image | actions, causal | answers
    block     image | actions, causal | questions, each sees the actions up to its
              horizon | answers
    full      one bidirectional prefix per query: image, actions, bos, question,
              newline; the answer is causal (the published model)

An answer's own tokens can also run later, behind a newline whose keys are kept: that
is how a sequence that is cached up to its newline grows (`reply_segment`).

The position rule says where every token stands for RoPE. A position may depend neither
on the horizon asked about nor on padding, or keys cached once could not serve every
candidate, question and horizon:

    image token i          i                      i = 0 .. I-1
    question token j       I + j                  every question starts at I
    action t               I + T_max + t          t = 0 .. H-1
    answer token m of      I + T_max + h + m      newline is m = 0, then the
    horizon h                                     answer and eos, causal

I is the number of image tokens, T_max the padded question length; both are
constants of the model. Action t has happened in the state of horizon t + 1, so
the newline of horizon h stands right behind action h - 1.

Axis letters: b images or scenes, i image tokens, q questions, t question tokens,
a actions, r training queries, c candidates, h horizons, m answer tokens (newline
first), j alternative answers to one query, s key tokens.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from swm_jax.arrays import Array


@dataclasses.dataclass(frozen=True)
class PositionRule:
    """Positions of one model.

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
        """Positions of a question's tokens; padding included, it is masked."""
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
        """Positions of `length` tokens of an answer branch at each horizon."""
        offsets = jnp.arange(length, dtype=jnp.int32)
        return self.action_start + jnp.asarray(horizons)[..., None] + offsets


@dataclasses.dataclass(frozen=True)
class Sight:
    """Keys a segment attends to.

    Attributes:
      source: name of the segment whose keys are seen.
      axes: leading axes of those keys (after `select`), without the key axis s.
      positions: int32[..., 1, s] of those keys, broadcastable to [*segment axes, s]:
        layers with a window hide keys that stand too far before a token.
      mask: bool, broadcastable to [*segment axes, s]; None sees every key.
      select: optional float[b, r, q] of one-hot rows: the question of each query.
    """

    source: str
    axes: str
    positions: Int[Array, "... s"]
    mask: Bool[Array, "..."] | None = None
    select: Float[Array, "b r q"] | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
    """Tokens that stand and see alike.

    Attributes:
      axes: a letter for every leading axis of `tokens`, the token axis last.
      tokens: float[*axes, width], embedded.
      positions: int32, broadcastable to [*axes].
      sight: what the tokens see; a segment that sees itself lists itself.
    """

    axes: str
    tokens: Float[Array, "... W"]
    positions: Int[Array, "..."]
    sight: tuple[Sight, ...]


Layout = dict[str, Segment]


def image_segment(rule: PositionRule, tokens: Float[Array, "b i W"]) -> Segment:
    """Image tokens, which see one another and nothing else."""
    return Segment("bi", tokens, rule.image(), (see_image(rule),))


def see_image(rule: PositionRule) -> Sight:
    """All image tokens."""
    return Sight("image", "b", rule.image()[None])


def see_question(
    rule: PositionRule,
    axes: str,
    mask: Bool[Array, "... s"],
    select: Float[Array, "b r q"] | None = None,
) -> Sight:
    """The real tokens of a question.

    Args:
      axes: leading axes of its keys, after `select`.
      mask: broadcastable to [*segment axes, s].
    """
    positions = rule.question(mask.shape[-1])[None]
    return Sight("question", axes, positions, mask, select)


def question_segment(
    rule: PositionRule,
    tokens: Float[Array, "b q t W"],
    mask: Bool[Array, "b q t"],
) -> Segment:
    """Branched questions: each sees the image and itself."""
    own = see_question(rule, "bq", mask[:, :, None, :])
    positions = rule.question(tokens.shape[-2])
    return Segment("bqt", tokens, positions, (see_image(rule), own))


def action_segment(rule: PositionRule, tokens: Float[Array, "b *c a W"]) -> Segment:
    """Actions, one chunk per image or per candidate: each sees the ones before."""
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
    """Block questions: one per query, after the actions up to its horizon."""
    own = see_question(rule, axes[:-1], mask[..., None, :])
    positions = rule.question(tokens.shape[-2])
    return Segment(axes, tokens, positions, (see_image(rule), actions, own))


def answer_segment(
    rule: PositionRule,
    axes: str,
    tokens: Float[Array, "... m W"],
    horizons: Int[Array, "..."],
    question: Sight,
    actions: Sight,
) -> Segment:
    """Answer branches: newline and answer see image, question, actions, themselves."""
    count = tokens.shape[-2]
    positions = rule.answers(horizons, count)
    own = _see_earlier("answer", axes[:-1], positions)
    sight = (see_image(rule), question, actions, own)
    return Segment(axes, tokens, positions, sight)


def reply_segment(
    newline: Segment,
    tokens: Float[Array, "... m W"],
    start: Int[Array, ""] | int = 0,
    earlier: Sight | None = None,
) -> Segment:
    """Answer tokens behind a segment whose last token is the newline.

    They see what the newline sees and the newline itself, whose keys are cached under
    the segment's name, "answer"; and one another, causally.

    Args:
      newline: a segment of newlines, or of whole prompts that end with one.
      tokens: of the newline's leading axes, with or without an axis j of alternative
        answers behind them.
      start: answer tokens that ran before these.
      earlier: their keys, if any did.
    """
    lead = newline.axes[:-1]
    if tokens.ndim - 2 > len(lead):
        lead += "j"
    # The newline's row of every mask serves all tokens; j goes in front of it.
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
    """The first `count` of `length` answer tokens that ran behind a newline.

    Their keys are cached under the name "earlier".
    """
    places = jnp.arange(length, dtype=jnp.int32)
    positions = newline.positions[..., -1:, None] + 1 + places
    return Sight("earlier", newline.axes[:-1], positions, places[None] < count)


def past_actions(
    rule: PositionRule, axes: str, horizons: Int[Array, "..."], count: int
) -> Sight:
    """The first `horizon` of `count` actions, from segments with these horizons.

    Args:
      rule: where actions stand.
      axes: leading axes of the actions' keys, "b" or "bc".
      horizons: int32, one per query.
      count: H, actions of a chunk.
    """
    mask = jnp.arange(count) < horizons[..., None, None]
    return Sight("action", axes, rule.actions(count)[None], mask)


def _see_earlier(source: str, axes: str, positions: Int[Array, "... m"]) -> Sight:
    """A segment's own tokens, each the ones up to itself."""
    causal = jnp.tri(positions.shape[-1], dtype=bool)
    return Sight(source, axes, positions[..., None, :], causal)


def full_layout(
    axes: str,
    parts: list[tuple[Float[Array, "..."], Bool[Array, "..."] | None]],
    answer_length: int,
    bidirectional: int | None = None,
) -> Layout:
    """One sequence per query; the parts are (tokens, mask or None) in order.

    The last part holds newline and answer, `answer_length` tokens of which the
    newline still belongs to the bidirectional prefix. Positions count the real
    tokens from 1, as published.

    Args:
      axes: of the sequences, the token axis last.
      parts: tokens [..., n, W] and which of them are real, [..., n].
      answer_length: newline and answer.
      bidirectional: how many tokens the prefix has whose tokens see one another;
        None: all up to the newline.
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
        bidirectional = length - answer_length + 1
    in_prefix = jnp.arange(length) < bidirectional
    sees = valid[..., None, :] & (jnp.tri(length, dtype=bool) | in_prefix)
    positions = jnp.cumsum(valid, -1, dtype=jnp.int32)
    own = Sight("answer", axes[:-1], positions[..., None, :], sees)
    return {"answer": Segment(axes, tokens, positions, (own,))}
