"""Batches for measuring: random ones, and a batch taken apart into single questions."""

import jax
import numpy as np

from swm_jax.models import ModelConfig, TrainBatch


def random_batch(
    config: ModelConfig, images: int, questions: int, queries: int, seed: int = 0
) -> TrainBatch:
    """A batch of noise, numpy: every question asked about as often as any other.

    Questions have 10 to 16 tokens or as many as the model allows, answers their word
    and eos; horizons are uniform from 0 to the longest.
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
    """The same queries, each with its image, actions and question to itself.

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
