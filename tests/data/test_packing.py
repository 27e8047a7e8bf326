"""Packed queries train like single ones; the 3B experiments' debug form resumes."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
from test_batches import write_data

from experiments.benchmarks.parts.train_ways import query_losses
from experiments.benchmarks.parts.workloads import (
    one_question_per_sequence,
    random_batch,
)
from swm_jax.checkpoints import load_model
from swm_jax.models import SemanticWorldModel, get_config

ROOT = Path(__file__).parents[2]
SMALL = dict(
    image_size=24, depth=2, vision_depth=1, width=32, mlp=64, head_dim=8,
    vision_width=32, vision_mlp=64, vocab_size=64, max_horizon=6, max_question_tokens=8,
)  # fmt: skip


def test_packed_and_single_questions_give_the_same_losses_and_gradient():
    config = get_config("tiny", **SMALL)
    model = SemanticWorldModel(config)
    params = jax.jit(model.init_params)(jax.random.key(0))
    packed = random_batch(config, images=2, questions=3, queries=5)
    single = one_question_per_sequence(packed)
    assert single.query_question.shape == (10, 1)
    losses = query_losses(config, params, packed)
    np.testing.assert_allclose(
        query_losses(config, params, single).reshape(2, 5), losses, rtol=1e-4
    )
    assert losses.std() > 0.01  # queries differ, so that a mix-up would show

    def gradient(batch):
        def loss(params):
            logits = model.apply({"params": params}, batch).logits
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, batch.answer_tokens
            ).mean()

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    for ours, theirs in zip(gradient(packed), gradient(single), strict=True):
        # A key's bias has no gradient; what is there is rounding.
        room = 1e-4 * np.abs(theirs).max() + 1e-7
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=room)


def test_single_questions_can_be_cut_to_a_number():
    config = get_config("tiny", **SMALL)
    packed = random_batch(config, images=2, questions=3, queries=5)
    single = one_question_per_sequence(packed, limit=7)
    assert len(single.image) == 7
    np.testing.assert_array_equal(single.image[6], packed.image[1])
    asked = packed.query_question[1, 1]
    np.testing.assert_array_equal(
        single.question_tokens[6, 0], packed.question_tokens[1, asked]
    )


def train(workdir, data, steps):
    return subprocess.run(
        [
            sys.executable, "-m", "swm_jax.train",
            "--config", "experiments/board_3b.py:debug", "--workdir", str(workdir),
            f"--config.data.dir={data}", f"--config.steps={steps}",
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_the_3b_experiment_s_debug_form_trains_and_resumes(tmp_path):
    write_data(tmp_path / "data")
    first = train(tmp_path / "run", tmp_path / "data", 3)
    assert first.returncode == 0, first.stderr
    second = train(tmp_path / "run", tmp_path / "data", 6)
    assert second.returncode == 0, second.stderr
    assert "resumed" in second.stdout and "step 3" in second.stdout
    loaded = load_model(tmp_path / "run")
    assert loaded.config.layout == "branched" and loaded.config.remat == "full"
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(loaded.params))
