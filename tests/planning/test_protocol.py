"""The protocol's shapes, the position rule and the fake world model."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swm_jax.models import Observation, PositionRule, QuestionBatch
from swm_jax.planning import FakeWorldModel, WorldModel


def questions(scenes: int, count: int) -> QuestionBatch:
    tokens = jnp.ones((scenes, count, 4), jnp.int32)
    return QuestionBatch(
        tokens=tokens,
        mask=tokens > 0,
        type_id=jnp.zeros((scenes, count), jnp.int32),
        args=jnp.zeros((scenes, count, 3), jnp.int32),
        answer_ids=jnp.broadcast_to(jnp.array([5, 6]), (scenes, count, 2)),
    )


def test_fake_world_model_follows_the_protocol_under_jit():
    model = FakeWorldModel(goal=jnp.array([0.1, 0.0]))
    assert isinstance(model, WorldModel)
    observation = Observation(image=jnp.zeros((2, 8, 8, 3), jnp.uint8))
    actions = jax.random.normal(jax.random.key(0), (2, 5, 4, 2)) * 0.03

    @jax.jit
    def score(model, observation, questions, actions):
        context = model.encode(observation, questions)
        return model.answer_log_probs(context, actions, (0, 2, 4))

    log_probs = score(model, observation, questions(2, 3), actions)
    assert log_probs.shape == (2, 5, 3, 3, 2)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1.0, rtol=1e-5)
    distance = np.linalg.norm(np.asarray(actions[1, 4, :2]).sum(0) - [0.1, 0.0])
    logit = 1.0 - distance**2 / 1e-3
    expected = -np.logaddexp(0.0, -logit)
    np.testing.assert_allclose(log_probs[1, 4, 1, 0, 1], expected, rtol=1e-4)


@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 60), st.integers(1, 60))
def test_positions_do_not_depend_on_horizon_or_padding(image, question, horizon, more):
    rule = PositionRule(image_tokens=image, max_question_tokens=question)
    assert rule.image().tolist() == list(range(image))
    assert rule.question(1).tolist() == rule.question().tolist()[:1] == [image]
    actions = rule.actions(horizon + more)
    np.testing.assert_array_equal(rule.actions(more), actions[:more])
    newline = rule.answers(jnp.array(horizon), 2)
    assert newline.tolist() == [
        image + question + horizon,
        image + question + horizon + 1,
    ]
    if horizon:  # right behind the last action that has happened
        assert newline[0] == actions[horizon - 1] + 1


def test_question_longer_than_the_model_is_named():
    with pytest.raises(ValueError, match=r"9 tokens.*max_question_tokens=8"):
        PositionRule(image_tokens=4, max_question_tokens=8).question(9)


def test_import_sets_the_thread_pool_unless_the_user_did():
    code = "import swm_jax, os; print(os.environ['NPROC'])"
    clean = {k: v for k, v in os.environ.items() if k != "NPROC"}
    run = lambda env: subprocess.check_output([sys.executable, "-c", code], env=env)
    assert run(clean).strip() == b"8"
    assert run({**clean, "NPROC": "3"}).strip() == b"3"
