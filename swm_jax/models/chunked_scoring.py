"""Scoring candidates in sequential passes of bounded memory.

A pass takes some candidates of all scenes or, if one candidate of every scene exceeds
the budget, of a group of scenes. The pass size is given, or derived from a memory
budget (explicit, or the device's free memory). Memory is estimated from shapes,
including the backward pass; passes are rematerialised, so a gradient stores only their
inputs.

Axes: S scenes, N candidates.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from swm_jax.arrays import Array
from swm_jax.models.config import ModelConfig
from swm_jax.models.flops import Scoring, scoring_runs

# Tokens per pass at which the cost of reading the weights is amortised: larger passes
# are not faster.
_ENOUGH_TOKENS = {"cpu": 2_560, "other": 16_384}
_CPU_CAP = 2 * 2**30  # bytes; host memory is shared with other processes


class NoRoomError(ValueError):
    """One candidate of one scene exceeds the memory budget."""


class PassSize(NamedTuple):
    """Size of one pass.

    Attributes:
      scenes: scenes per pass, a divisor of S.
      candidates: candidates of each of them; the last pass is padded with repeats.
    """

    scenes: int
    candidates: int


class Query(NamedTuple):
    """Sizes that determine the memory of one candidate.

    Attributes:
      scenes: S.
      actions, horizons, questions, question_tokens: H, K, Q, T.
      reply_tokens: tokens of all multi-token answers to one question.
      rows: rows of the vocabulary in each read-out.
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
            f"{self.actions} actions, {self.questions} question(s) of "
            f"{self.question_tokens} tokens at {self.horizons} horizon(s)"
        )


def tokens_per_candidate(config: ModelConfig, query: Query) -> int:
    """Tokens that run for one candidate of every scene."""
    return sum(tokens for tokens, _ in _runs(config, query))


def bytes_per_candidate(config: ModelConfig, query: Query) -> int:
    """Estimated bytes of one candidate of every scene during a backward pass.

    An upper estimate: twice the activations of one layer, the residuals stored per
    layer (only its input under remat "full"), and the read-out.
    """
    c, size = config, 2 if config.dtype == "bfloat16" else 4
    token = size * (8 * c.width + 4 * c.mlp + 4 * c.heads * c.head_dim) + 8 * c.width
    # 12 bytes per attention logit: three float32 temporaries.
    layer = sum(n * (token + 12 * c.heads * keys) for n, keys in _runs(c, query))
    inputs = tokens_per_candidate(c, query) * size * c.width
    kept = c.depth * (inputs if c.remat == "full" else layer)
    queries = query.scenes * query.horizons * query.questions
    return 2 * layer + kept + 12 * queries * query.rows


def pass_that_fits(
    config: ModelConfig, query: Query, budget: int | None = None
) -> PassSize:
    """The largest useful pass that fits the memory budget.

    Args:
      config: the model's.
      query: sizes of the query per candidate.
      budget: bytes; None takes the device's free memory at trace time, or a quarter of
        its total with several processes, whose programs must be identical.

    Raises:
      NoRoomError: one candidate of one scene exceeds the budget.
    """
    device = jax.local_devices()[0]
    given, budget = budget, free_memory(device) if budget is None else budget
    single = query._replace(scenes=1)
    one = bytes_per_candidate(config, single)
    if budget < one:
        least = bytes_per_candidate(config, single._replace(horizons=1, questions=1))
        whose = f"free on {device}" if given is None else "of the memory budget"
        raise NoRoomError(
            f"{_mib(budget)} {whose} hold no candidate: one of one scene with "
            f"{query.words} needs {_mib(one)}, and {_mib(least)} with 1 question and "
            "1 horizon; ask for less at once or give a larger memory_budget"
        )
    scenes, fits = pass_of(query.scenes, int(budget // one))
    # Round down to a power of two, so that small changes of free memory do not
    # recompile.
    fits = 1 << fits.bit_length() - 1
    enough = _ENOUGH_TOKENS["cpu" if device.platform == "cpu" else "other"]
    enough //= tokens_per_candidate(config, query._replace(scenes=scenes))
    return PassSize(scenes, max(1, min(fits, enough)))


def pass_of(scenes: int, count: int) -> PassSize:
    """Pass size of at most `count` scenes x candidates, over all scenes if possible.

    Args:
      scenes: S.
      count: scenes x candidates, at least 1.
    """
    group = next(n for n in range(min(scenes, count), 0, -1) if scenes % n == 0)
    return PassSize(group, count // group)


def free_memory(device: Any) -> int:
    """Free bytes of a device; on CPUs half of the host's free memory, capped."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        # Free memory differs between processes, and their programs must not.
        if jax.process_count() > 1:
            return stats["bytes_limit"] // 4
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not on every system
        return _CPU_CAP
    return min(free // 2, _CPU_CAP)


def in_passes(score: Callable, size: PassSize, context: Any, *inputs: Array) -> Any:
    """Applies `score` to [S, N, ...] inputs in sequential passes (`lax.map`).

    Args:
      score: (context, *inputs) -> a pytree of arrays [S, N, ...].
      size: scenes and candidates of one pass.
      context: of all scenes, with a method `share` (see `swm.Context`).
    """
    scenes, candidates = inputs[0].shape[:2]
    shares, passes = scenes // size.scenes, -(-candidates // size.candidates)
    if shares == passes == 1:
        return score(context, *inputs)
    count = -(-candidates // passes)  # equal passes, little padding
    padding = passes * count - candidates

    def split(x):
        x = jnp.concatenate([x, x[:, :padding]], 1)
        # Shares take every `shares`-th scene: if scenes are split over devices, each
        # device then works in every pass.
        x = x.reshape(size.scenes, shares, passes, count, *x.shape[2:])
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(shares * passes, size.scenes, count, *x.shape[4:])

    def join(x):
        x = x.reshape(shares, passes, size.scenes, count, *x.shape[3:])
        x = jnp.moveaxis(x, 2, 0)
        return x.reshape(scenes, passes * count, *x.shape[4:])[:, :candidates]

    def run(part):
        share, *inputs = part
        here = context if shares == 1 else context.share(share, shares)
        return score(here, *inputs)

    parts = (jnp.arange(shares * passes) // passes, *map(split, inputs))
    run = jax.checkpoint(run, prevent_cse=False)
    return jax.tree.map(join, lax.map(run, parts))


def _runs(c: ModelConfig, q: Query) -> list[tuple[int, int]]:
    """(tokens, keys per token) of each segment, for one candidate of every scene."""
    one = Scoring(1, q.horizons, q.questions, q.actions, q.question_tokens)
    runs = scoring_runs(c, one)
    sees = runs[-1].keys + q.reply_tokens
    replies = q.scenes * q.horizons * q.questions * q.reply_tokens
    return [(q.scenes * run.tokens, run.keys) for run in runs] + [(replies, sees)]


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
