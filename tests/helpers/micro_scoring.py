"""Scenes, candidates and questions for micro models, scored with and without cache."""

import functools

import jax
import numpy as np
from micro_models import GEMMA3, MICRO, quick_jit

from swm_jax.models import (
    Observation,
    QuestionBatch,
    SemanticWorldModel,
    TrainBatch,
    VLMWorldModel,
    get_config,
)

SCENES, CANDIDATES, ACTIONS, HORIZONS, QUESTIONS = 2, 3, 5, (0, 2, 5), 2
LAYOUTS = ("branched", "block", "full")
WINDOWED = tuple(f"gemma3/{layout}" for layout in LAYOUTS)


@functools.cache
def world_model(layout="branched", per_pass=128):
    backbone, _, layout = layout.rpartition("/")
    sizes = {**MICRO, **(GEMMA3 if backbone == "gemma3" else {})}
    config = get_config("tiny", layout=layout, **sizes)
    params = quick_jit(SemanticWorldModel(config).init_params)(jax.random.key(1))
    return VLMWorldModel(params, config, per_pass)


def case(seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.array([[3, 2], [4, 4]])[..., None]
    questions = QuestionBatch(
        tokens=rng.integers(5, 32, (SCENES, QUESTIONS, 4)).astype(np.int32),
        mask=np.arange(4) < lengths,
        type_id=np.zeros((SCENES, QUESTIONS), np.int32),
        args=np.zeros((SCENES, QUESTIONS, 3), np.int32),
        answer_ids=np.array([[[5, 6], [7, 8]], [[9, 6], [30, 31]]], np.int32),
    )
    image = rng.integers(0, 256, (SCENES, 8, 8, 3), np.uint8)
    shape = (SCENES, CANDIDATES, ACTIONS, 2)
    actions = rng.normal(size=shape).astype(np.float32) * 0.03
    return Observation(image=image), questions, actions


def plain_score(
    model, observation, questions, actions, horizons=HORIZONS, kind="answers"
):
    context = model.encode(observation, questions)
    if kind == "logits":
        return model.answer_logits(context, actions, horizons)
    return model.answer_log_probs(context, actions, horizons, kind)


score = quick_jit(plain_score, static_argnums=(4, 5))


def uncached_logits(model, observation, questions, actions):
    """All vocabulary logits [S, N, K, Q, V] by the training forward."""
    rows = SCENES * CANDIDATES
    repeat = lambda x: np.repeat(x, CANDIDATES, 0)
    queries = np.array([(h, q) for h in HORIZONS for q in range(QUESTIONS)], np.int32)
    queries = np.broadcast_to(queries, (rows, *queries.shape))
    batch = TrainBatch(
        image=repeat(observation.image),
        actions=actions.reshape(rows, ACTIONS, 2),
        question_tokens=repeat(questions.tokens),
        question_mask=repeat(questions.mask),
        query_question=queries[..., 1],
        query_horizon=queries[..., 0],
        answer_tokens=np.zeros((rows, queries.shape[1], 1), np.int32),
        answer_mask=np.ones((rows, queries.shape[1], 1), bool),
        query_type=np.zeros((rows, queries.shape[1]), np.int32),
    )
    apply = quick_jit(SemanticWorldModel(model.config).apply)
    logits = apply({"params": model.params}, batch).logits
    return np.asarray(
        logits.reshape(SCENES, CANDIDATES, len(HORIZONS), QUESTIONS, -1), np.float64
    )
