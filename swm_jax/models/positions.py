"""The position rule: where every token stands for RoPE.

A position may depend neither on the horizon asked about nor on padding, or keys
cached once could not serve every candidate, question and horizon:

    image token i          i                      i = 0 .. I-1
    question token j       I + j                  every question starts at I
    action t               I + T_max + t          t = 0 .. H-1
    answer token m of      I + T_max + h + m      newline is m = 0, then the
    horizon h                                     answer and eos, causal

I is the number of image tokens, T_max the padded question length; both are
constants of the model. Action t has happened in the state of horizon t + 1, so
the newline of horizon h stands right behind action h - 1.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Int

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
