"""Our PaliGemma and PaliGemma 2 against `transformers`, with random weights."""

import functools

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from parity_cases import (
    CASES,
    assert_same_gradient,
    assert_same_outputs,
    our_outputs,
    random_batch,
    random_params,
)
from torch_paligemma import torch_outputs
from torch_swm import torch_swm

pytestmark = pytest.mark.parity
GEMMA, _, GEMMA2, _ = CASES
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@functools.cache
def both(case):
    params, batch = random_params(case), random_batch(case, actions=False)
    return our_outputs(case, params, batch), torch_outputs(case, params, batch)


@every_case
def test_features_hidden_states_and_logits_equal_those_of_transformers(case):
    assert_same_outputs(*both(case))


@every_case
def test_gradients_equal_those_of_transformers(case):
    ours, theirs = (outputs["gradient"] for outputs in both(case))
    assert set(ours) - set(theirs) == {"action/kernel", "action/bias"}
    assert_same_gradient(ours, theirs)


@pytest.mark.parametrize("case", [GEMMA, GEMMA2], ids=lambda case: case.name)
def test_embedding_scale_trap(case):
    """Text is multiplied by sqrt(width), image tokens are not.

    `transformers` once divided image tokens by sqrt(width) and multiplied the whole
    sequence by it, later it scaled inside the embedding: the same numbers either way.
    """
    (ours, theirs), params = both(case), random_params(case)
    batch, width, count = (
        random_batch(case, actions=False),
        case.config.width,
        case.config.image_tokens,
    )
    for outputs in (ours, theirs):
        prompt = outputs["inputs"][:count]
        np.testing.assert_allclose(prompt, outputs["image_tokens"][0], atol=1e-5)
        bos = params["llm"]["embedder"]["input_embedding"][case.config.bos_id]
        np.testing.assert_allclose(
            outputs["inputs"][count], bos * np.sqrt(width), atol=1e-5
        )
    # Scaling the image tokens too, or text not at all, would not go unnoticed.
    swm = torch_swm(case, params)
    question = batch.question_tokens[0, 0][batch.question_mask[0, 0]]
    length = count + 1 + len(question) + 1
    x = torch.tensor(theirs["inputs"][:length])
    is_image = (torch.arange(length) < count)[:, None]
    root = width**0.5
    wrong = (torch.where(is_image, x * root, x), torch.where(is_image, x, x / root))
    right, scaled, bare = (
        swm.read(swm.states(y, length)[-1][-1]).log_softmax(-1).detach().numpy()
        for y in (x, *wrong)
    )
    np.testing.assert_allclose(ours["first_log_probs"][0, 0], right, atol=1e-4)
    assert np.abs(right - scaled).max() > 0.1
    assert np.abs(right - bare).max() > 0.1


def test_gemma_2_s_window_changes_no_prompt_and_no_first_answer_token():
    params, batch = random_params(GEMMA2), random_batch(GEMMA2, actions=False)
    ours, _ = both(GEMMA2)
    window = torch_outputs(GEMMA2, params, batch, sliding_window=4)
    np.testing.assert_allclose(
        ours["first_log_probs"], window["first_log_probs"], atol=1e-4
    )
    # It does exist in this model: later answer tokens see less.
    assert np.abs(ours["logits"] - window["logits"]).max() > 1e-3
