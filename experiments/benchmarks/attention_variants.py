"""Benchmark of implementations of attention to keys shared by all candidates.

    python -m experiments.benchmarks.attention_variants
    python -m experiments.benchmarks.attention_variants --dtype bfloat16

One decoder layer of a 3B shape in the branched layout: action tokens and answer queries
of all candidates attend to image, questions, their own actions and themselves. All
variants give the same numbers (checked); times are taken in turns, beside the layer's
products with its weights for the same tokens.

    shared maximum   exponentials of all sets share one maximum (what the decoder does)
    concatenated     logits of all sets in one array, one softmax
    log-sum-exp      a softmax for each set, merged by their log-sum-exps
    copied keys      keys copied per query, `jax.nn.dot_product_attention` over them;
                     "cudnn" the same by cuDNN, on GPUs in bfloat16
"""

import functools

import swm_jax  # noqa: F401  (sets NPROC before jax starts)
from swm_jax import prng

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmarks.parts.timing import machine, side_by_side
from swm_jax.cli import run_command
from swm_jax.models import PositionRule, get_config
from swm_jax.models.backbones import attention
from swm_jax.models.layout import Sight, action_segment, answer_segment, past_actions

_CANDIDATES = flags.DEFINE_integer("candidates", 64, "N of a pass.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ("float32", "bfloat16"), "Of all.")
_TURNS = flags.DEFINE_integer("turns", 5, "Times each runs; the shortest counts.")
QUESTIONS, WORDS, ACTIONS, HORIZONS = 2, 12, 16, (8, 16)


def logits_of(segment, query, keys):
    """(logits, values, their letters) of every set of keys, one key head."""
    for sight in segment.sight:
        key, value = (x[..., 0, :] for x in keys[sight.source])
        letters = f"{segment.axes}GH,{sight.axes}sH->{segment.axes}Gs"
        logits = jnp.einsum(letters, query, key).astype(jnp.float32)
        if sight.mask is not None:
            logits = jnp.where(sight.mask[..., None, :], logits, -2e38)
        back = f"{segment.axes}Gs,{sight.axes}sH->{segment.axes}GH"
        yield logits, value, back


def concatenated(segment, query, keys):
    """One softmax over all logits in one array."""
    logits, values, letters = zip(*logits_of(segment, query, keys))
    weights = jax.nn.softmax(jnp.concatenate(logits, -1)).astype(query.dtype)
    ends = np.cumsum([x.shape[-1] for x in logits])[:-1]
    parts = zip(letters, jnp.split(weights, ends, -1), values)
    return sum(jnp.einsum(back, weight, value) for back, weight, value in parts)


def merged(segment, query, keys):
    """A separate softmax for every set, merged by log-sum-exps."""
    seen, sizes = [], []
    for logits, value, back in logits_of(segment, query, keys):
        sizes.append(jax.nn.logsumexp(logits, -1, keepdims=True))
        weights = jnp.exp(logits - sizes[-1]).astype(query.dtype)
        seen.append(jnp.einsum(back, weights, value))
    shares = jax.nn.softmax(jnp.concatenate(sizes, -1))
    return sum(x * shares[..., i, None] for i, x in enumerate(seen)).astype(query.dtype)


def copied(segment, query, keys, implementation="xla"):
    """Keys of all sets side by side, a copy per sequence of queries."""
    axes, lead = segment.axes[:-1], query.shape[:-3]
    together, masks = [[], []], []
    for sight in segment.sight:
        for kind, x in zip(together, keys[sight.source]):
            gap = [n if a in sight.axes else 1 for a, n in zip(axes, lead)]
            x = x.reshape(*gap, *x.shape[-3:])
            kind.append(jnp.broadcast_to(x, (*lead, *x.shape[-3:])))
        count = together[0][-1].shape[-3]
        mask = jnp.ones((), bool) if sight.mask is None else sight.mask
        masks.append(jnp.broadcast_to(mask, (*query.shape[:-2], count)))
    flat = lambda x: x.reshape(-1, *x.shape[len(lead) :])
    key, value = (flat(jnp.concatenate(kind, -3)) for kind in together)
    mask = flat(jnp.concatenate(masks, -1))[:, None]
    out = jax.nn.dot_product_attention(
        flat(query), key, value, mask=mask, scale=1.0, implementation=implementation
    )
    return out.reshape(query.shape)


def main(argv):
    del argv
    config, count = get_config("paligemma_3b_224"), _CANDIDATES.value
    rule = PositionRule(config.image_tokens, WORDS)
    dtype, heads, width = jnp.dtype(_DTYPE.value), config.heads, config.head_dim
    seeds = iter(prng.split(prng.key(0), 32))
    draw = lambda *shape: prng.normal(next(seeds), shape, dtype=dtype)
    queries = (1, count, len(HORIZONS), QUESTIONS, 1)
    past = past_actions(rule, "bc", jnp.array(HORIZONS)[:, None], ACTIONS)
    question = Sight("question", "bq", rule.question(WORDS)[None])
    tokens = {"action": draw(1, count, ACTIONS, 1), "answer": draw(*queries, 1)}
    segments = {
        "action": action_segment(rule, tokens["action"]),
        "answer": answer_segment(
            rule,
            "bchqm",
            tokens["answer"],
            jnp.array(HORIZONS)[:, None],
            question,
            past,
        ),
    }
    sets = dict(
        image=(1, config.image_tokens),
        question=(1, QUESTIONS, WORDS),
        action=(1, count, ACTIONS),
        answer=queries,
    )
    keys = {name: (draw(*s, 1, width), draw(*s, 1, width)) for name, s in sets.items()}
    rows = {
        name: draw(*s.tokens.shape[:-1], heads, width) / 16
        for name, s in segments.items()
    }
    ways = {
        "shared maximum": functools.partial(attention.attend, cap=0.0),
        "concatenated": concatenated,
        "log-sum-exp": merged,
        "copied keys": copied,
    }
    if jax.default_backend() == "gpu" and _DTYPE.value == "bfloat16":
        ways["cudnn"] = functools.partial(copied, implementation="cudnn")
    calls, results = [], []
    for way in ways.values():

        @jax.jit
        def attend(rows, keys, way=way):
            return {name: way(segments[name], rows[name], keys) for name in rows}

        calls.append(functools.partial(attention.attend, rows, keys))
        results.append(jax.tree.map(lambda x: np.asarray(x, np.float64), calls[-1]()))
    states = draw(count * (ACTIONS + len(HORIZONS) * QUESTIONS), config.width)
    shapes = ((config.width, config.mlp),) * 2 + ((config.mlp, config.width),)
    weights = [draw(*shape) / 64 for shape in shapes]
    mlp = jax.jit(lambda x, w: ((x @ w[0]) * (x @ w[1])) @ w[2])
    calls.append(functools.partial(mlp, states, weights))
    *times, products = side_by_side(*calls, turns=_TURNS.value)
    print(
        f"{machine()}\n{count} candidates, {_DTYPE.value}; the layer's MLP takes "
        f"{products * 1e3:.1f} ms for the same tokens\n"
        f"{'':16}{'ms':>9}{'of the MLP':>12}{'largest difference':>20}"
    )
    for (name, _), seconds, found in zip(ways.items(), times, results):
        apart = max(np.abs(found[k] - results[0][k]).max() for k in found)
        share = seconds / products
        print(f"{name:16}{seconds * 1e3:9.2f}{share:12.1%}{apart:20.1e}")


if __name__ == "__main__":
    run_command(main)
