"""Memory of one training step by fine-tuning choice, from compiled programs.

    python -m experiments.benchmarks.finetune_memory
    python -m experiments.benchmarks.finetune_memory --variant paligemma_3b_224 \\
        --images 8 --layers 2
    python -m experiments.benchmarks.finetune_memory --variant paligemma_3b_224 \\
        --images 32 --topology v5p:2x2x1     # a TPU slice that need not be there

Compiles the real train step for the device at hand from shapes alone: no weight is
made, no step is run. What XLA's `memory_analysis()` says is what the program needs:
arguments (parameters, optimizer state, batch) and temporaries (gradients, activations).
Donated buffers are counted once.

With `--layers n` three small programs are compiled in place of the whole depth, with n
or 2n layers in decoder and tower, and the table is extrapolated linearly per layer;
scanned layers make that exact but for what the compiler fuses otherwise. On a CPU, XLA
computes bfloat16 in float32: its temporaries are an upper bound for accelerators.

With `--topology` the table is of one chip of a TPU slice, parameters and optimizer
state split over up to 16 chips, images over all (needs libtpu: `make libtpu`). What the
slice has no room for says so.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.sharding import Mesh

from experiments import board_tiny
from swm_jax.models import VARIANTS, ModelConfig, TrainBatch, get_config
from swm_jax.models.swm import SemanticWorldModel
from swm_jax.tools import get_slice
from swm_jax.tools.analysis import out_of_memory
from swm_jax.tools.programs import bytes_per_device
from swm_jax.training.finetune import Finetune, count_parameters
from swm_jax.training.optimizer import make_optimizer
from swm_jax.training.sharding import batch_sharding, make_mesh
from swm_jax.training.state import abstract_state
from swm_jax.training.step import make_train_step

_VARIANT = flags.DEFINE_enum("variant", "tiny", VARIANTS, "Model size.")
_IMAGES = flags.DEFINE_integer("images", 8, "Images of a batch, at least 1.", 1)
_QUERIES = flags.DEFINE_integer("queries", 16, "Queries per image.", 1)
_QUESTIONS = flags.DEFINE_integer("questions", 8, "Questions per image.", 1)
_REMAT = flags.DEFINE_enum("remat", None, ("none", "dots", "full"), "As the config.")
_LAYERS = flags.DEFINE_integer(
    "layers", 0, "Compile n and 2n layers and extrapolate; 0 compiles all of them.", 0
)
_TOPOLOGY = flags.DEFINE_string("topology", "", "A TPU slice, such as v5p:2x2x1.")
_RANKS = flags.DEFINE_list("ranks", ["4", "16", "64"], "Ranks of LoRA.")

GIB, MIB = 2**30, 2**20
_MATRICES = "(llm/layers/(attn|mlp)/.*|img/(Transformer|head)/.*)"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one compiled step.

    Attributes:
      moving: number of parameters that move (a count, not bytes).
      params, opt_state: held between steps.
      temporary: gradients, activations and scratch space during a step.
      peak: all arguments, temporaries and outputs that are not donated arguments.
    """

    moving: float
    params: float
    opt_state: float
    temporary: float
    peak: float

    def combine(self, other: "Memory", sign: float) -> "Memory":
        """Field by field self + sign x other."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Memory(*(a + sign * b for a, b in zip(mine, theirs)))


def choices(ranks: list[int]) -> dict[str, dict[str, Any]]:
    """`config.finetune` by name."""
    frozen = {"schedules": (("img/.*", None), (".*", {}))}
    rows = {"full AdamW": {}, "frozen tower": frozen}
    for rank in ranks:
        rule = (_MATRICES, {"rank": rank, "alpha": float(rank)})
        rows[f"LoRA, rank {rank}"] = {"lora": (rule,)}
    return rows


def batch_shapes(config: ModelConfig, images: int, questions: int, queries: int):
    """A `TrainBatch` of shapes."""
    shape = lambda dtype, *axes: jax.ShapeDtypeStruct((images, *axes), dtype)
    side, answer = config.image_size, config.max_answer_tokens
    asked = questions, config.max_question_tokens
    return TrainBatch(
        image=shape(jnp.uint8, side, side, 3),
        actions=shape(jnp.float32, config.max_horizon, config.action_size),
        question_tokens=shape(jnp.int32, *asked),
        question_mask=shape(jnp.bool_, *asked),
        query_question=shape(jnp.int32, queries),
        query_horizon=shape(jnp.int32, queries),
        answer_tokens=shape(jnp.int32, queries, answer),
        answer_mask=shape(jnp.bool_, queries, answer),
        query_type=shape(jnp.int32, queries),
    )


def measure(
    config: ModelConfig,
    rules: Mapping[str, Any],
    batch: TrainBatch,
    mesh: Mesh | None = None,
) -> Memory:
    """Compiles the train step of a model and a fine-tuning choice.

    Args:
      mesh: of a slice; the memory is that of one of its chips. None: this device.

    Raises:
      jax.errors.JaxRuntimeError: the slice has no room for it.
    """
    run = board_tiny.get_config()
    run.dense_weight, run.optimizer.name = 0.0, "adamw"
    run.finetune.update(rules)
    finetune = Finetune.from_config(run)
    pace = finetune.scale_by_pace(run.optimizer, 1000) if finetune.schedules else None
    optimizer, _ = make_optimizer(run.optimizer, 1000, pace)
    mesh = mesh or make_mesh({"data": 1}, jax.devices()[:1])
    state = abstract_state(run, config, optimizer, mesh)
    place = batch_sharding(mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), batch
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(
        SemanticWorldModel(config), optimizer, 1, 0.0, finetune, shardings=shardings
    )
    used = step.lower(state, batch).compile().memory_analysis()
    held = used.argument_size_in_bytes - used.alias_size_in_bytes
    return Memory(
        moving=count_parameters(finetune.split(state.params)[0]),
        params=bytes_per_device(state.params),
        opt_state=bytes_per_device(state.opt_state),
        temporary=used.temp_size_in_bytes,
        peak=held + used.temp_size_in_bytes + used.output_size_in_bytes,
    )


def extrapolate(
    config: ModelConfig,
    rules: Mapping[str, Any],
    batch: TrainBatch,
    layers: int,
    mesh: Mesh | None = None,
) -> Memory:
    """Memory at the config's depths, linear in the layers of decoder and tower."""

    def at(depth: int, vision_depth: int) -> Memory:
        small = dataclasses.replace(config, depth=depth, vision_depth=vision_depth)
        return measure(small, rules, batch, mesh)

    start = at(layers, layers)
    decoder = at(2 * layers, layers).combine(start, -1.0)
    tower = at(layers, 2 * layers).combine(start, -1.0)
    total = start.combine(decoder, config.depth / layers - 1.0)
    return total.combine(tower, config.vision_depth / layers - 1.0)


def _bytes(tree) -> int:
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def main(argv: list[str]) -> None:
    """Prints the table, a row as soon as it is compiled."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; flags start with --")
    overrides = {} if _REMAT.value is None else {"remat": _REMAT.value}
    config = get_config(_VARIANT.value, **overrides)
    batch = batch_shapes(config, _IMAGES.value, _QUESTIONS.value, _QUERIES.value)
    big = jax.eval_shape(SemanticWorldModel(config).init_params, jax.random.key(0))
    unit, name = (GIB, "GiB") if _bytes(big) > GIB else (MIB, "MiB")
    how = "all layers compiled"
    if _LAYERS.value:
        how = (
            f"{_LAYERS.value} and {2 * _LAYERS.value} layers compiled, extrapolated "
            "linearly per layer"
        )
    where, mesh = jax.devices()[0].device_kind, None
    if _TOPOLOGY.value:
        try:
            slice_ = get_slice(_TOPOLOGY.value)
            mesh = make_mesh({"data": -1, "fsdp": "<=16"}, slice_.devices)
            if _IMAGES.value % mesh.size:
                raise ValueError(
                    f"--images {_IMAGES.value} does not divide over the {mesh.size} "
                    f"chips of {slice_.name}"
                )
        except ValueError as error:
            sys.exit(f"error: {error}")
        where = f"one of the {slice_.chips} chips of {slice_.name}"
    print(
        f"{config.variant}, {_IMAGES.value} images x {_QUERIES.value} queries, layout "
        f"{config.layout}, {config.dtype}, remat {config.remat}; {how}; {name} on "
        f"{where}\n"
    )
    print("| choice | moving parameters | parameters | optimizer | step | peak |")
    print("|---|---|---|---|---|---|", flush=True)
    for choice, rules in choices([int(rank) for rank in _RANKS.value]).items():
        try:
            if _LAYERS.value:
                memory = extrapolate(config, rules, batch, _LAYERS.value, mesh)
            else:
                memory = measure(config, rules, batch, mesh)
        except jax.errors.JaxRuntimeError as error:
            size = out_of_memory(str(error))
            if size is None:
                raise
            needed, room = (part / unit for part in size)
            print(f"| {choice} | | | | | {needed:.2f}: does not fit {room:.2f} |")
            continue
        parts = memory.params, memory.opt_state, memory.temporary, memory.peak
        cells = " | ".join(f"{part / unit:.2f}" for part in parts)
        print(f"| {choice} | {memory.moving:,.0f} | {cells} |", flush=True)


if __name__ == "__main__":
    app.run(main)
