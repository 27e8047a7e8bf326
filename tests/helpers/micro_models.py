"""A model of a few thousand parameters, and a batch of queries for it."""

import functools

import jax
import numpy as np

from swm_jax.models import TrainBatch

MICRO = dict(
    image_size=8,
    patch_size=4,
    vision_width=8,
    vision_depth=1,
    vision_mlp=8,
    vision_heads=2,
    width=16,
    depth=2,
    mlp=16,
    heads=4,
    kv_heads=2,
    head_dim=4,
    vocab_size=32,
    max_question_tokens=4,
    max_horizon=5,
)
# The same on Gemma 3: one local layer and a global one, four patches a token.
GEMMA3 = dict(
    backbone="gemma3",
    image_size=16,
    post_norms=True,
    pool=2,
    window=4,
    global_every=2,
    rope_base=1_000_000.0,
    rope_scale=8.0,
    causal_text=True,
)
# Compiling is most of what these tests cost: skip what only makes code faster.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
QUESTION_LENGTHS = (3, 2)  # real tokens of the two questions, padded to 3
QUERIES = ((0, 2), (1, 0), (0, 4), (1, 3))  # (question, horizon)
ACTIONS, ANSWER = 4, 2


def batch_of_queries(seed: int = 0) -> TrainBatch:
    rng = np.random.default_rng(seed)
    lengths = np.array(QUESTION_LENGTHS)[None, :, None]
    queries = np.array(QUERIES, np.int32)[None]
    return TrainBatch(
        image=rng.integers(0, 256, (1, 8, 8, 3), np.uint8),
        actions=rng.normal(size=(1, ACTIONS, 2)).astype(np.float32) * 0.03,
        question_tokens=rng.integers(5, 32, (1, 2, 3)).astype(np.int32),
        question_mask=np.arange(3) < lengths,
        query_question=queries[..., 0],
        query_horizon=queries[..., 1],
        answer_tokens=rng.integers(5, 32, (1, len(QUERIES), ANSWER)).astype(np.int32),
        answer_mask=np.ones((1, len(QUERIES), ANSWER), bool),
        query_type=np.zeros((1, len(QUERIES)), np.int32),
    )
