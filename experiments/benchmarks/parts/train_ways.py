"""Ways to train for `train.py`, as functions of one step.

`jax_way` is our train step on a mesh over all devices, packed or with one question per
sequence; `reference_way` is the usual PyTorch loop on the same sequences.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from experiments import board_3b
from experiments.benchmarks.parts.workloads import (
    one_question_per_sequence,
    random_batch,
)
from swm_jax import prng
from swm_jax.models import ModelConfig, SemanticWorldModel, TrainBatch
from swm_jax.tools.programs import step_flops, train_tokens
from swm_jax.training import Experiment
from swm_jax.training.build import build, initial_state
from swm_jax.training.sharding import make_mesh, shard_batch
from swm_jax.training.world_model.model import TrainableWorldModel

QUERIES, QUESTIONS = 24, 12


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes and ways of one preset.

    Attributes:
      overrides: fields of the model that differ from the 3B model's.
      images: of a packed batch.
      accumulate: parts of it that run one after the other.
      sequences: of a step of the ways with one question each.
      micro_batch: of those, how many PyTorch runs at once.
      ways: names, in the order they are measured.
      square: side of the matrices whose product is the measured rate.
    """

    overrides: dict[str, Any]
    images: int
    sequences: int
    micro_batch: int
    ways: tuple[str, ...]
    square: int
    accumulate: int = 1


PRESETS = {
    "cpu": Preset(
        # One layer of each tower and a smaller table: AdamW's share stays small.
        {"depth": 1, "vision_depth": 1, "vocab_size": 8192, "dtype": "float32",
         "remat": "none"},
        # As many images as sequences, as in training: AdamW costs both alike.
        images=8, sequences=8, micro_batch=8,
        ways=("packed", "single", "reference"), square=2048,
    ),
    "h200": Preset(
        {}, images=96, accumulate=3, sequences=96, micro_batch=16,
        ways=("reference", "packed", "lora", "single"), square=8192,
    ),
    # Seconds on a laptop, to test the program.
    "tiny": Preset(
        {"depth": 1, "vision_depth": 1, "vocab_size": 512, "dtype": "float32",
         "remat": "none", "image_size": 28, "width": 64, "mlp": 128, "head_dim": 16,
         "vision_width": 64, "vision_heads": 4, "vision_mlp": 128},
        images=2, sequences=16, micro_batch=8,
        ways=("packed", "single", "reference", "lora"), square=256,
    ),
}  # fmt: skip


@dataclasses.dataclass
class Way:
    """A way to train, compiled.

    Attributes:
      step: runs one optimizer step and returns the loss.
      labels, tokens, flops, executed: of one step; `executed` includes recomputation by
        rematerialisation.
      seconds: measured steps.
    """

    name: str
    step: Callable[[], float]
    labels: int
    tokens: int
    flops: float
    executed: float
    seconds: list[float] = dataclasses.field(default_factory=list)


def experiment(preset: Preset, way: str) -> Experiment:
    """`board_3b` as the preset and the way have it."""
    variant = {"packed": "branched", "lora": "lora", "single": "full"}[way]
    config = board_3b.get_config(variant)
    config.init_from, config.steps = "", 1000
    config.model.overrides.update(preset.overrides)
    config.data.images = preset.images if variant != "full" else preset.sequences
    config.accumulate = preset.accumulate
    return Experiment.parse(config)


def batches(preset: Preset, config: ModelConfig) -> tuple[TrainBatch, TrainBatch]:
    """A packed batch, and sequences of one question each from the same queries."""
    images = max(preset.images, -(-preset.sequences // QUERIES))
    batch = random_batch(config, images, QUESTIONS, QUERIES)
    packed = jax.tree.map(lambda x: x[: preset.images], batch)
    return packed, one_question_per_sequence(batch, preset.sequences)


def jax_way(name: str, preset: Preset) -> Way:
    """Our train step, compiled, on a mesh over all devices."""
    config = experiment(preset, name)
    model, mesh = config.model.config(), make_mesh(vars(config.mesh))
    trainable = TrainableWorldModel.of(config)
    built = build(config, trainable, mesh)
    holder = [initial_state(config, trainable, built)]
    packed, single = batches(preset, model)
    batch = single if name == "single" else packed
    placed = shard_batch(batch, mesh)

    def run() -> float:
        holder[0], metrics = built.step(holder[0], placed)
        return float(metrics.scalars["loss"])

    count = lambda again: step_flops(model, batch, again)
    return Way(
        name, run, batch.query_type.size, train_tokens(model, batch),
        count(False), count(True),
    )  # fmt: skip


def reference_way(preset: Preset) -> Way | None:
    """PyTorch's loop on the sequences of "single"; None where it cannot run."""
    try:
        import torch

        from experiments.benchmarks.references.torch_reference import (
            ReferenceModel,
            Trainer,
        )
    except ImportError as error:
        print(f"reference: left out, {error} (pip install -e '.[parity]')")
        return None
    if jax.default_backend() != "cpu" and not torch.cuda.is_available():
        print("reference: left out, this PyTorch sees no GPU")
        return None
    config = experiment(preset, "single")
    model = config.model.config()
    params = jax.device_get(
        jax.jit(SemanticWorldModel(model).init_params)(prng.key(config.seed))
    )
    cuda = torch.cuda.is_available() and jax.default_backend() != "cpu"
    torch_model = ReferenceModel(model, params).to("cuda" if cuda else "cpu")
    trainer = Trainer(
        torch_model, config.optimizer.learning_rate, preset.micro_batch, autocast=cuda
    )
    batch = batches(preset, model)[1]
    queries = [(i, 0) for i in range(len(batch.image))]
    if not cuda:
        print(_agreement(model, params, torch_model, batch, queries), flush=True)
    del params
    executed = float(step_flops(model, batch, False))
    tokens = torch_model.tokens(batch, queries)
    return Way(
        "reference", lambda: trainer.step(batch, queries), len(queries), tokens,
        executed, executed,
    )  # fmt: skip


def _agreement(model, params, torch_model, batch, queries) -> str:
    """Difference of the losses of the two ways with one question per sequence."""
    import torch

    few = queries[:4]
    part = jax.tree.map(lambda x: x[: len(few)], batch)
    ours = query_losses(model, params, part)[:, 0]
    with torch.no_grad():
        theirs = torch_model.query_loss(part, few).numpy()
    gap = np.abs(ours - theirs).max()
    return (
        f"loss of the same queries, single against reference: {len(few)} queries, "
        f"largest difference {gap:.1e} of {theirs.mean():.3f}"
    )


def query_losses(model: ModelConfig, params: Any, batch: TrainBatch) -> np.ndarray:
    """float32[B, R]: each query's mean cross-entropy over its answer tokens."""
    run = jax.jit(lambda p, b: SemanticWorldModel(model).apply({"params": p}, b).logits)
    loss = optax.softmax_cross_entropy_with_integer_labels(
        run(params, batch), batch.answer_tokens
    )
    mask = np.asarray(batch.answer_mask, np.float32)
    return np.asarray((loss * mask).sum(-1) / mask.sum(-1))
