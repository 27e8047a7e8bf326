"""Random weights, batches, scenes and actions for benchmarks, and matrix products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from swm_jax import prng
from swm_jax.models import (
    ModelConfig,
    Observation,
    QuestionBatch,
    SemanticWorldModel,
    TrainBatch,
)

HORIZON, WORDS = 16, 12  # actions of a chunk, tokens of a question


def random_batch(
    config: ModelConfig, images: int, questions: int, queries: int, seed: int = 0
) -> TrainBatch:
    """Random numpy batch with evenly used questions.

    Questions have 10 to 16 tokens (or the model's limit), answers a word and eos;
    horizons are uniform from 0 to the longest.
    """
    c, rng = config, np.random.default_rng(seed)
    most = min(16, c.max_question_tokens)
    length = rng.integers(min(10, most), most + 1, (images, questions, 1))
    mask = np.arange(most) < length
    words = lambda *shape: rng.integers(10, c.vocab_size, shape).astype(np.int32)
    answers = words(images, queries, 2)
    answers[..., 1] = c.eos_id
    side = (images, c.image_size, c.image_size, 3)
    return TrainBatch(
        image=rng.integers(0, 256, side, np.uint8),
        actions=rng.uniform(
            -0.03, 0.03, (images, c.max_horizon, c.action_size)
        ).astype(np.float32),
        question_tokens=np.where(mask, words(images, questions, most), 0),
        question_mask=mask,
        query_question=np.tile(np.arange(queries, dtype=np.int32) % questions,
                               (images, 1)),
        query_horizon=rng.integers(0, c.max_horizon + 1, (images, queries)).astype(
            np.int32
        ),
        answer_tokens=answers,
        answer_mask=np.ones(answers.shape, bool),
        query_type=np.zeros((images, queries), np.int32),
    )  # fmt: skip


def one_question_per_sequence(
    batch: TrainBatch, limit: int | None = None
) -> TrainBatch:
    """Unpacked batch: one sequence per query, with its own image and question.

    Args:
      batch: B images of R queries, numpy; without dense targets.
      limit: keep the first so many of the B x R.
    """
    images, queries = batch.query_question.shape
    b, r = (x.ravel()[:limit] for x in np.indices((images, queries)))
    asked = batch.query_question[b, r]
    single = lambda x: x[b, r][:, None]
    places = batch.places
    return TrainBatch(
        image=batch.image[b],
        actions=batch.actions[b],
        question_tokens=batch.question_tokens[b, asked][:, None],
        question_mask=batch.question_mask[b, asked][:, None],
        query_question=np.zeros((len(b), 1), np.int32),
        query_horizon=single(batch.query_horizon),
        answer_tokens=single(batch.answer_tokens),
        answer_mask=single(batch.answer_mask),
        query_type=single(batch.query_type),
        places=None if places is None else jax.tree.map(single, places),
    )


def random_params(config: ModelConfig, dtype: str):
    """Fresh weights in the dtype of the computation, made on the device."""

    @jax.jit
    def make(key):
        params = SemanticWorldModel(config).init_params(key)
        return jax.tree.map(lambda x: x.astype(dtype), params)

    return make(prng.key(0))


def random_scene(config: ModelConfig, questions: int):
    """An image and questions without padding, answered by one of two tokens."""
    rng, size = np.random.default_rng(0), config.image_size
    ids = lambda *shape: rng.integers(5, config.vocab_size, shape).astype(np.int32)
    blank = np.zeros((1, questions), np.int32)
    batch = QuestionBatch(
        tokens=ids(1, questions, WORDS),
        mask=np.ones((1, questions, WORDS), bool),
        type_id=blank,
        args=np.stack([blank, blank, blank], -1),
        answer_ids=ids(1, questions, 2),
    )
    image = rng.integers(0, 256, (1, size, size, 3), np.uint8)
    return jax.tree.map(jnp.asarray, (Observation(image=image), batch))


def random_actions(config: ModelConfig, count: int):
    """Random action chunks with the magnitude of pushes on the board."""
    shape = (1, count, HORIZON, config.action_size)
    return 0.02 * prng.normal(prng.key(3), shape)


def matrix_products(config: ModelConfig, tokens: int, passes: int):
    """Program of the decoder's weight products alone, for `tokens` and `passes`."""
    c, keys = config, prng.split(prng.key(7), 7)
    inner = c.heads * c.head_dim
    shapes = (
        (c.width, inner), (c.width, 2 * c.kv_heads * c.head_dim), (inner, c.width),
        (c.width, c.mlp), (c.width, c.mlp), (c.mlp, c.width),
    )  # fmt: skip
    draw = jax.jit(
        lambda key, shape: prng.normal(key, shape, dtype=c.dtype) * shape[0] ** -0.5,
        static_argnums=1,
    )
    weights = [draw(key, shape) for key, shape in zip(keys, shapes)]

    @jax.jit
    def run(x, weights):
        query, key, out, gate, up, down = weights

        def layer(x, _):
            seen = (x @ query) @ out
            return ((seen @ gate) * (seen @ up)) @ down, (x @ key)[0]

        return jax.lax.scan(layer, x, length=c.depth * passes)

    return functools.partial(run, draw(keys[6], (tokens, c.width)), weights)
