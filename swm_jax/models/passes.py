"""Candidates in passes, one after the other, so that memory stays bounded.

How many run at once is given, or follows from a budget of bytes: that of the device, or
one's own. What a pass needs is estimated from shapes, for the backward direction, which
needs more; a gradient recomputes each pass from its inputs, so that of all passes
together only the inputs are kept.

Axes: S scenes, N candidates.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from swm_jax.models.config import ModelConfig
from swm_jax.models.flops import scoring_runs

# Tokens beyond which a pass gains nothing: weights are read seldom enough.
_ENOUGH_TOKENS = {"cpu": 2_560, "other": 16_384}
_CPU_CAP = 2 * 2**30  # of a host's memory, which is not ours alone


class NoRoomError(ValueError):
    """Not even one candidate fits the memory."""


class Query(NamedTuple):
    """Everything that the size of one candidate depends on.

    Attributes:
      scenes: S; a pass takes the same candidates of all of them.
      actions, horizons, questions, question_tokens: H, K, Q, T.
      reply_tokens: of all answers of several tokens to one question.
      rows: of the vocabulary that every answer is read over.
    """

    scenes: int
    actions: int
    horizons: int
    questions: int
    question_tokens: int
    reply_tokens: int = 0
    rows: int = 2

    @property
    def words(self) -> str:
        return (
            f"{self.scenes} scene(s), {self.actions} actions, {self.questions} question"
            f"(s) of {self.question_tokens} tokens at {self.horizons} horizon(s)"
        )


def tokens_per_candidate(config: ModelConfig, query: Query) -> int:
    """Tokens that run for one candidate of every scene."""
    return sum(tokens for tokens, _ in _runs(config, query))


def bytes_per_candidate(config: ModelConfig, query: Query) -> int:
    """Memory of one candidate of every scene while its gradient is computed.

    An estimate that errs upwards: what one layer computes, twice; what is kept of
    each layer (its input alone where layers are rematerialised); the answers read.
    """
    c, size = config, 2 if config.dtype == "bfloat16" else 4
    token = size * (8 * c.width + 4 * c.mlp + 4 * c.heads * c.head_dim) + 8 * c.width
    layer = sum(n * (token + 12 * c.heads * keys) for n, keys in _runs(c, query))
    inputs = tokens_per_candidate(c, query) * size * c.width
    kept = c.depth * (inputs if c.remat == "full" else layer)
    queries = query.scenes * query.horizons * query.questions
    return 2 * layer + kept + 12 * queries * query.rows


def candidates_that_fit(
    config: ModelConfig, query: Query, budget: int | None = None
) -> int:
    """Candidates of every scene in one pass.

    Args:
      config: the model's.
      query: what is asked of each candidate.
      budget: bytes; None for what the device has free, when this is traced. With
        several processes, whose programs must be the same, a quarter of all it has.

    Raises:
      NoRoomError: not even one candidate fits.
    """
    device = jax.local_devices()[0]
    given, budget = budget, free_memory(device) if budget is None else budget
    one = bytes_per_candidate(config, query)
    if budget < one:
        least = bytes_per_candidate(
            config, query._replace(scenes=1, horizons=1, questions=1)
        )
        whose = f"free on {device}" if given is None else "of the memory budget"
        raise NoRoomError(
            f"{_mib(budget)} {whose} hold no candidate: one with {query.words} needs "
            f"{_mib(one)}, and {_mib(least)} with 1 scene, 1 question and 1 horizon; "
            "ask for less at once or give a larger memory_budget"
        )
    enough = _ENOUGH_TOKENS["cpu" if device.platform == "cpu" else "other"]
    fits = 1 << int(budget // one).bit_length() - 1  # the same at almost the same
    return max(1, min(fits, enough // tokens_per_candidate(config, query)))


def free_memory(device: jax.Device) -> int:
    """Bytes that a program may use on a device now; on CPUs half of the host's."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        if jax.process_count() > 1:
            return stats["bytes_limit"] // 4
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not on every system
        return _CPU_CAP
    return min(free // 2, _CPU_CAP)


def in_passes(score: Callable, size: int, *inputs: Array) -> Any:
    """Runs [S, N, ...] inputs in parts of at most `size` candidates.

    Args:
      score: inputs -> a pytree of arrays [S, N, ...].
      size: candidates of every scene in one pass.
    """
    scenes, candidates = inputs[0].shape[:2]
    passes = -(-candidates // size)
    if passes == 1:
        return score(*inputs)
    size = -(-candidates // passes)  # equal passes, little padding
    padding = passes * size - candidates

    def split(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):  # there is no zero key
            x = jnp.concatenate([x, x[:, :padding]], 1)
        else:
            x = jnp.pad(x, ((0, 0), (0, padding), *((0, 0),) * (x.ndim - 2)))
        x = x.reshape(scenes, passes, size, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    def join(x):
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(scenes, passes * size, *x.shape[3:])[:, :candidates]

    one = jax.checkpoint(lambda part: score(*part), prevent_cse=False)
    return jax.tree.map(join, lax.map(one, tuple(map(split, inputs))))


def _runs(c: ModelConfig, q: Query) -> list[tuple[int, int]]:
    """Tokens of one candidate of every scene, and the keys that they see."""
    runs = scoring_runs(c, 1, q.horizons, q.questions, q.actions, q.question_tokens)
    sees = runs[-1].keys + q.reply_tokens
    replies = q.scenes * q.horizons * q.questions * q.reply_tokens
    return [(q.scenes * run.tokens, run.keys) for run in runs] + [(replies, sees)]


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
