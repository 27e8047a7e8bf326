"""Training of object tokens: the eyes' stage, losses, what a start may lack."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import board_tiny
from swm_jax.checkpoints import load_model
from swm_jax.checkpoints.formats.orbax.step_folder import write_model
from swm_jax.checkpoints.run.manager import FORMAT, FORMAT_VERSION
from swm_jax.models import FutureTargets, ObjectTargets, Tokenizer, TrainBatch
from swm_jax.models.objects import ObjectStates
from swm_jax.training import Experiment, train
from swm_jax.training.world_model.eyes import TrainableEyes
from swm_jax.training.world_model.inputs import WorldModelInputs
from swm_jax.training.world_model.losses import answer_loss
from swm_jax.training.world_model.model import TrainableWorldModel, load_start
from swm_jax.training.world_model.object_losses import (
    future_loss,
    future_totals,
    object_loss,
    object_totals,
)
from swm_jax.training.world_model.run import trainable_of

ROOT = Path(__file__).resolve().parents[2]
B, P, K = 3, 5, 4


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def states():
    return ObjectStates(random(B, P, 1 + K), random(B, P, 4), random(B, K, 4))


@pytest.fixture
def targets():
    owner = np.random.default_rng(1).integers(0, 1 + K, (B, P)).astype(np.int32)
    owner[0, :2] = 0, 1  # some of both kinds
    return ObjectTargets(random(B, K, 4, seed=2), owner)


def entropy(logits, label):
    logits = logits.astype(np.float64)
    return np.log(np.exp(logits).sum()) - logits[label]


def test_object_loss_is_the_sum_of_its_definitions(states, targets):
    l1 = lambda e: np.abs(e[:2]).sum() + 0.25 * np.abs(e[2:]).sum()
    of = [l1(states.state[b, k] - targets.state[b, k]) for b, k in np.ndindex(B, K)]
    shown, bare, among, place = [], [], [], []
    for b, p in np.ndindex(B, P):
        owner = targets.owner[b, p]
        (shown if owner else bare).append(entropy(states.owner[b, p], owner))
        if owner:
            among.append(entropy(states.owner[b, p, 1:], owner - 1))
            place.append(l1(states.patch[b, p] - targets.state[b, owner - 1]))
    expected = np.mean(of) + 0.5 * (np.mean(shown) + np.mean(bare))
    expected += np.mean(among) + np.mean(place)
    loss, measured = object_loss(states, targets, object_totals(targets))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    away = 0.1 * np.linalg.norm((states.state - targets.state)[..., :2], axis=-1)
    np.testing.assert_allclose(
        measured["object_error_mm"], 1000 * away.mean(), rtol=1e-5
    )
    np.testing.assert_allclose(measured["object_far"], (away > 0.03).mean(), rtol=1e-6)


def test_losses_of_parts_add_up_to_the_loss_of_the_batch(states, targets):
    totals = object_totals(targets)
    whole, _ = object_loss(states, targets, totals)
    part = lambda tree, b: jax.tree.map(lambda x: x[b : b + 1], tree)
    parts = [object_loss(part(states, b), part(targets, b), totals) for b in range(B)]
    np.testing.assert_allclose(sum(loss for loss, _ in parts), whole, rtol=1e-5)
    error = sum(measured["object_error_mm"] for _, measured in parts)
    whole = object_loss(states, targets, totals)[1]["object_error_mm"]
    np.testing.assert_allclose(error, whole, rtol=1e-5)


def test_future_loss_counts_moved_and_unmoved_objects_half_each():
    moved = np.zeros((1, 1, 1, 3, 2), np.float32)
    moved[..., 0, :] = 0.04, 0.0
    turned = np.zeros((1, 1, 1, 3), np.float32)
    targets = FutureTargets(moved, turned)
    out = np.zeros((1, 1, 1, 3, 3), np.float32)  # "nothing moves"
    loss, error, still, far = future_loss(out, targets, future_totals(targets))
    # The moved one is off by two units of 2 cm: Huber 2 - 0.5, half the weight.
    np.testing.assert_allclose(loss, 0.5 * 1.5, rtol=1e-6)
    np.testing.assert_allclose((error, still, far), (40.0, 0.0, 40.0), rtol=1e-5)
    out[..., 1, 2] = 1.0  # an unmoved one of two is believed to turn by 1 rad
    more = future_loss(out, targets, future_totals(targets))[0]
    np.testing.assert_allclose(more - loss, 0.5 * (2 - 0.5) / 2, rtol=1e-5)


def test_the_eyes_learn_and_the_decoder_stays(tmp_path):
    config = board_tiny.get_config("eyes_debug")
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 3e-3, 0
    config.steps = config.validate_every = config.checkpoint_every = 24
    experiment = Experiment.parse(config)
    trainable = trainable_of(experiment)
    assert isinstance(trainable, TrainableEyes)
    before = jax.jit(lambda: trainable.init(jax.random.key(config.seed)))()
    train(config, tmp_path)
    after = load_model(str(tmp_path)).params
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, dict(after))
    assert not any(jax.tree.leaves((changed["llm"], changed["action"])))
    assert not any(jax.tree.leaves(changed["img"]["head"]))
    assert changed["objects"]["state"]["kernel"] and changed["objects"]["owner"]["bias"]
    assert not changed["objects"]["path"]
    batch = WorldModelInputs(experiment, _tokenizer()).validation()[0]
    loss = lambda params: float(trainable.loss(params, batch)[0])
    assert loss(jax.tree.map(jnp.asarray, after)) < 0.9 * loss(before)


def _tokenizer():
    return Tokenizer.load("tiny")


def test_the_command_ends_with_the_error_of_the_eyes(tmp_path):
    config = ROOT / "experiments" / "board_tiny.py"
    command = [sys.executable, "-m", "swm_jax.train", f"--config={config}:eyes_debug"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path}", "--config.steps=2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^held-out object_error_mm \d", done.stdout, re.M)


def test_eyes_of_a_model_without_object_tokens_are_refused():
    config = board_tiny.get_config("eyes_debug")
    config.model.overrides.objects = 0
    with pytest.raises(ValueError, match="stage eyes trains the read-outs of objects"):
        trainable_of(Experiment.parse(config))


def test_a_start_without_object_tokens_leaves_them_as_initialised(tmp_path):
    config = board_tiny.get_config("debug")
    plain = TrainableWorldModel.of(Experiment.parse(config))
    stored = plain.model.init_params(jax.random.key(5))
    path = tmp_path / "plain"
    path.mkdir()
    experiment = Experiment.parse(config)
    overrides = {"variant": "tiny", "overrides": experiment.model.settings}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": {**overrides, "tokenizer": "tiny"},
    }
    write_model(path, stored, metadata)
    config = board_tiny.get_config("eyes_debug")
    trainable = trainable_of(Experiment.parse(config))
    params = trainable.init(jax.random.key(1))
    started = load_start(params, str(path))
    jax.tree.map(np.testing.assert_array_equal, started["img"], stored["img"])
    jax.tree.map(np.testing.assert_array_equal, started["objects"], params["objects"])


def test_weights_of_queries_weigh_their_losses():
    ints = lambda *shape: jnp.zeros(shape, jnp.int32)
    batch = TrainBatch(
        image=jnp.zeros((1, 4, 4, 3), jnp.uint8),
        actions=jnp.zeros((1, 2, 2)),
        question_tokens=ints(1, 1, 2),
        question_mask=jnp.ones((1, 1, 2), bool),
        query_question=ints(1, 3),
        query_horizon=ints(1, 3),
        answer_tokens=jnp.array([[[0], [1], [1]]]),
        answer_mask=jnp.array([[[True], [True], [False]]]),
        query_type=jnp.array([[0, 1, 1]]),
        query_weight=jnp.array([[3.0, 1.0, 9.0]]),
    )
    logits = jnp.log(jnp.array([[[[0.9, 0.1]], [[0.8, 0.2]], [[0.5, 0.5]]]]))
    loss, scores = answer_loss(logits, batch, 2)
    expected = (3 * -np.log(0.9) + -np.log(0.2)) / 4  # the last has no answer
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(scores.count, [3.0, 1.0])
    np.testing.assert_allclose(scores.correct, [3.0, 0.0])
