"""Trains a very small model on meshes of simulated devices; prints JSON for a test.

Usage: python tests/mesh_runs.py '[{"mesh": {"data": 2}, "accumulate": 1, ...}, ...]'
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import swm_jax  # noqa: F401  isort: skip  (before jax starts)

import jax
import numpy as np

from experiments import board_tiny
from swm_jax.models import (
    DenseTargets,
    MentionTargets,
    PlaceTargets,
    SemanticWorldModel,
    TrainBatch,
    get_config,
)
from swm_jax.training.optimizer import make_optimizer
from swm_jax.training.sharding import make_mesh, shard_batch
from swm_jax.training.state import abstract_state, initial_state
from swm_jax.training.step import make_eval_step, make_train_step

# Compiling costs more than running here, and rounding is what is compared.
jax.config.update("jax_disable_most_optimizations", True)

TYPES = 3
SCALARS = ("loss", "dense_loss", "mention_error", "place_error", "gradient_norm")
SIZES = dict(
    image_size=24,
    width=32,
    mlp=64,
    depth=2,
    heads=8,
    kv_heads=2,
    head_dim=8,
    vision_width=32,
    vision_mlp=64,
    vision_depth=1,
    vision_heads=8,
    vocab_size=64,
    scan=True,
)


def random_batch(seed: int, images: int = 16, beside: bool = True) -> TrainBatch:
    """Unequal numbers of queries per image, and perhaps every target beside them."""
    rng = np.random.default_rng(seed)
    queries, questions, length = 5, 3, 4
    integers = lambda high, *shape: rng.integers(0, high, (images, *shape))
    answers = 2
    mask = np.arange(answers) < integers(answers + 1, queries, 1)
    batch = TrainBatch(
        image=integers(256, 24, 24, 3).astype(np.uint8),
        actions=rng.normal(size=(images, 3, 2)).astype(np.float32) * 0.02,
        question_tokens=5 + integers(59, questions, length),
        question_mask=np.ones((images, questions, length), bool),
        query_question=integers(questions, queries),
        query_horizon=integers(4, queries),
        answer_tokens=5 + integers(59, queries, answers),
        answer_mask=mask,
        query_type=integers(TYPES, queries),
    )
    if not beside:
        return batch
    return batch.replace(
        dense=DenseTargets(
            object_id=integers(22, 4) * (integers(2, 4) > 0),
            centre=rng.random((images, 4, 2), np.float32),
        ),
        mentions=MentionTargets(
            mask=integers(2, queries, length) > 0,
            centre=rng.random((images, queries, length, 2), np.float32),
        ),
        places=PlaceTargets(
            mask=integers(2, queries, 3) > 0,
            place=rng.random((images, queries, 3, 2), np.float32),
        ),
    )


def run(
    mesh: dict,
    accumulate: int = 1,
    optimizer: str = "muon",
    steps: int = 3,
    rules: tuple = (),
    beside: bool = True,
    **model: object,
) -> dict:
    """Losses and gradient norms of some steps, and into how many parts leaves lie."""
    config = board_tiny.get_config()
    config.sharding = tuple(rules)
    config.dense_weight = float(beside)
    config.optimizer.update({"name": optimizer, "warmup_steps": 0})
    model_config = get_config("tiny", **{**SIZES, **model})
    count = int(np.prod(list(mesh.values())))
    mesh = make_mesh(mesh, jax.devices()[:count])
    transform, _ = make_optimizer(config.optimizer, 100)
    target = abstract_state(config, model_config, transform, mesh)
    state = initial_state(config, model_config, transform, target)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    step = make_train_step(
        SemanticWorldModel(model_config),
        transform,
        TYPES,
        shardings=shardings,
        accumulate=accumulate,
    )
    batch = lambda seed: shard_batch(random_batch(seed, beside=beside), mesh)
    validation = []
    if beside:
        evaluate = make_eval_step(SemanticWorldModel(model_config), TYPES, mesh=mesh)
        scores = evaluate(state.params, batch(99))
        validation = np.asarray(scores.loss).tolist()
    rows, before = [], state
    for i in range(steps):
        state, metrics = step(state, batch(i))
        scalars = [
            "loss",
            "dense_loss",
            "mention_error",
            "place_error",
            "gradient_norm",
        ]
        rows.append([float(getattr(metrics, name)) for name in scalars])
    parts = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        parts[name] = leaf.size // leaf.addressable_shards[0].data.size
    return {
        "rows": rows,
        "validation": validation,
        "parts": parts,
        "compiled": step._cache_size(),
        "donated": all(leaf.is_deleted() for leaf in jax.tree.leaves(before)),
    }


if __name__ == "__main__":
    runs = [run(**each) for each in json.loads(sys.argv[1])]
    print(json.dumps(runs))
