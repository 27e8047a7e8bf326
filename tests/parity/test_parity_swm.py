"""The published semantic world model against a PyTorch reading of its description."""

import functools

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from micro_models import quick_jit
from parity_cases import (
    CASES,
    assert_same_gradient,
    assert_same_outputs,
    our_outputs,
    random_batch,
    random_params,
)
from torch_swm import torch_swm_outputs

from swm_jax.models import Observation, QuestionBatch, VLMWorldModel

pytestmark = pytest.mark.parity
_, WIDE, GEMMA2, _ = CASES
both_decoders = pytest.mark.parametrize(
    "case", [WIDE, GEMMA2], ids=lambda case: case.name
)


@functools.cache
def both(case):
    params, batch = random_params(case), random_batch(case, actions=True)
    return our_outputs(case, params, batch), torch_swm_outputs(case, params, batch)


@both_decoders
def test_full_layout_is_the_published_sequence(case):
    assert_same_outputs(*both(case))


@both_decoders
def test_gradients_reach_everything_alike_the_action_projector_included(case):
    ours, theirs = (outputs["gradient"] for outputs in both(case))
    assert set(ours) == set(theirs)
    assert np.abs(theirs["action/kernel"]).max() > 1e-3
    assert_same_gradient(ours, theirs)


def test_planners_read_the_published_probabilities():
    """The read-out: over the whole vocabulary, at the newline, for any horizon."""
    batch, (_, theirs) = random_batch(GEMMA2, actions=True), both(GEMMA2)
    answers = np.array([7, 21, 50], np.int32)
    scenes, questions, _ = batch.question_tokens.shape
    asked = QuestionBatch(
        tokens=batch.question_tokens,
        mask=batch.question_mask,
        type_id=np.zeros((scenes, questions), np.int32),
        args=np.full((scenes, questions, 3), -1, np.int32),
        answer_ids=np.broadcast_to(answers, (scenes, questions, 3)),
    )
    world = VLMWorldModel(random_params(GEMMA2), GEMMA2.config)

    def score(world, image, asked, actions):
        context = world.encode(Observation(image=image), asked)
        return world.answer_log_probs(
            context, actions[:, None], (0, 1, 2, 3, 4), normalise="vocabulary"
        )

    result = np.asarray(quick_jit(score)(world, batch.image, asked, batch.actions))
    for b, r in np.ndindex(batch.query_question.shape):
        question, horizon = batch.query_question[b, r], batch.query_horizon[b, r]
        np.testing.assert_allclose(
            result[b, 0, horizon, question],
            theirs["first_log_probs"][b, r, answers],
            atol=1e-4,
        )
