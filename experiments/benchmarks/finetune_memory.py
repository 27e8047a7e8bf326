"""Memory of one training step by kind of fine-tuning and device.

    python -m experiments.benchmarks.finetune_memory
    python -m experiments.benchmarks.finetune_memory --config experiments/board_3b.py \\
        --topology v5p:1x1x1,v6e:2x2,v5e:4x4 --images 16

Compiles the train step of training from shapes alone, without weights, and reads XLA's
memory analysis: arguments (parameters, optimizer state, batch) and temporaries
(gradients, activations), donated buffers once. `--topology` names TPU slices, for which
libtpu compiles on any machine (`make libtpu`); parameters and optimizer state are
sharded over their chips by the config's rules. Without it the program is compiled for
the devices of this machine. A program that does not fit is reported with the size in
XLA's error.

With `--layers n` three small programs are compiled in place of the full depth, with n
or 2n layers in decoder and tower, and sizes are extrapolated linearly per layer; with
scanned layers this is exact up to different fusions. On a CPU, XLA computes bfloat16 in
float32: its temporaries are an upper bound for accelerators.
"""

import dataclasses
import os
from typing import Any

import jax
import ml_collections
from absl import flags
from jax.sharding import Mesh

from swm_jax.cli import define_config, no_arguments, run_command
from swm_jax.tools.analysis import out_of_memory
from swm_jax.tools.programs import train_program
from swm_jax.tools.topology import TopologyError, get_slice
from swm_jax.training import Experiment
from swm_jax.training.sharding import make_mesh

_CONFIG = define_config(
    "experiments/board_tiny.py", "Experiment whose step is compiled."
)
_TOPOLOGY = flags.DEFINE_list("topology", [], "TPU slices, such as v5e:4x4.")
_IMAGES = flags.DEFINE_integer("images", 0, "Images of a batch; 0 as the config.", 0)
_LAYERS = flags.DEFINE_integer(
    "layers", 0, "Compile n and 2n layers and extrapolate; 0 compiles all of them.", 0
)
_RANKS = flags.DEFINE_list("ranks", ["16"], "Ranks of LoRA.")

GIB, MIB = 2**30, 2**20
_MATRICES = "(llm/layers/(attn|mlp)/.*|img/(Transformer|head)/.*)"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one compiled step on one device.

    Attributes:
      params, opt_state: held between steps.
      temporary: gradients, activations and scratch space during a step.
      peak: all arguments, temporaries and outputs that are not donated arguments.
    """

    params: float
    opt_state: float
    temporary: float
    peak: float

    def combine(self, other: "Memory", sign: float) -> "Memory":
        """Field by field self + sign x other."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Memory(*(a + sign * b for a, b in zip(mine, theirs)))


def choices(ranks: list[int]) -> dict[str, dict[str, Any]]:
    """Kinds of fine-tuning: settings of `config.finetune` by name."""
    frozen = {"schedules": (("img/.*", None), (".*", {})), "lora": ()}
    rows = {"full": {"schedules": (), "lora": ()}, "frozen tower": frozen}
    for rank in ranks:
        rule = (_MATRICES, {"rank": rank, "alpha": float(rank)})
        rows[f"LoRA, rank {rank}"] = {"schedules": (), "lora": (rule,)}
    return rows


def measure(config: ml_collections.ConfigDict, mesh: Mesh) -> Memory:
    """Memory of the train step of a config on one device of a mesh.

    Raises:
      jax.errors.JaxRuntimeError: it does not compile, for lack of memory or otherwise.
    """
    program = train_program(Experiment.parse(config), mesh)
    used = program.lower().compile().memory_analysis()
    held = used.argument_size_in_bytes - used.alias_size_in_bytes
    return Memory(
        params=program.held["parameters"],
        opt_state=program.held["optimizer state"],
        temporary=used.temp_size_in_bytes,
        peak=held + used.temp_size_in_bytes + used.output_size_in_bytes,
    )


def extrapolate(config: ml_collections.ConfigDict, mesh: Mesh, layers: int) -> Memory:
    """Memory at the config's depths, linear in the layers of decoder and tower."""
    model = Experiment.parse(config).model.config()

    def at(depth: int, vision_depth: int) -> Memory:
        small = config.copy_and_resolve_references()
        small.model.overrides.update({"depth": depth, "vision_depth": vision_depth})
        return measure(small, mesh)

    start = at(layers, layers)
    decoder = at(2 * layers, layers).combine(start, -1.0)
    tower = at(layers, 2 * layers).combine(start, -1.0)
    total = start.combine(decoder, model.depth / layers - 1.0)
    return total.combine(tower, model.vision_depth / layers - 1.0)


def describe(config: ml_collections.ConfigDict, mesh: Mesh, unit: int) -> str:
    """Cells of a table row: parameters, optimizer, step and peak on one device."""
    try:
        memory = (
            extrapolate(config, mesh, _LAYERS.value)
            if _LAYERS.value
            else measure(config, mesh)
        )
    except jax.errors.JaxRuntimeError as error:
        size = out_of_memory(str(error))
        if size is None:
            raise
        held = train_program(Experiment.parse(config), mesh).held
        parts = held["parameters"] / unit, held["optimizer state"] / unit
        return (
            f"{parts[0]:.2f} | {parts[1]:.2f} | | {size[0] / unit:.1f}, does not fit "
            f"{size[1] / unit:.1f}"
        )
    parts = memory.params, memory.opt_state, memory.temporary, memory.peak
    return " | ".join(f"{part / unit:.2f}" for part in parts)


def main(argv: list[str]) -> None:
    """Prints the table row by row as programs are compiled."""
    no_arguments(argv)
    if _TOPOLOGY.value:
        os.environ["JAX_PLATFORMS"] = "cpu"  # the devices exist only for the compiler
    config = _CONFIG.value
    if _IMAGES.value:
        config.data.images = _IMAGES.value
    experiment = Experiment.parse(config)
    model = experiment.model.config()
    try:
        kinds = {name: get_slice(name).devices for name in _TOPOLOGY.value}
    except TopologyError as error:
        raise SystemExit(f"error: {error}") from error
    kinds = kinds or {jax.devices()[0].device_kind: jax.devices()}
    mesh = make_mesh(vars(experiment.mesh), next(iter(kinds.values())))
    first = train_program(experiment, mesh)
    big = first.parameters * 4 > GIB
    unit, name = (GIB, "GiB") if big else (MIB, "MiB")
    how = "all layers compiled"
    if _LAYERS.value:
        how = (
            f"{_LAYERS.value} and {2 * _LAYERS.value} layers compiled, extrapolated "
            "linearly per layer"
        )
    print(
        f"{model.variant}, {config.optimizer.name}, {first.work['images']} images x "
        f"{first.work['labels'] // first.work['images']} queries, layout "
        f"{model.layout}, {model.dtype}, remat {model.remat}; {how}; {name} per "
        "device\n"
    )
    print("| choice | device kind | devices | parameters | optimizer | step | peak |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for choice, rules in choices([int(rank) for rank in _RANKS.value]).items():
        config.finetune.update(rules)
        for kind, devices in kinds.items():
            mesh = make_mesh(vars(experiment.mesh), devices)
            cells = describe(config, mesh, unit)
            print(f"| {choice} | {kind} | {len(devices)} | {cells} |", flush=True)


if __name__ == "__main__":
    run_command(main)
