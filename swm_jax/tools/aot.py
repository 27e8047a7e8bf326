"""Ahead-of-time compilation of an experiment for a TPU slice, without the TPU.

    python -m swm_jax.tools.aot --topology v5e:4x4
    python -m swm_jax.tools.aot --config experiments/cube_3b.py --topology v5p:2x2x4 \\
        --programs train --json results/cube_v5p.json
    python -m swm_jax.tools.aot --topology v5e:16x16 --config.data.images=1536 \\
        --scale_from v5e:4x4

The real train step, the planner's replan and whole closed-loop episodes are compiled by
the TPU's compiler from shapes alone. The report has memory per chip by kind, operations
(counted from shapes, as the compiler counts loops once), collectives by mesh axis, and
bounds of the time per step (assumptions in `swm_jax.tools.roofline`). The last line is
"fits" or "does not fit", with exit status 0 or 3; invalid arguments give 2. The only
requirement is libtpu: `make libtpu`.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags

from swm_jax.choices import known
from swm_jax.cli import define_config, define_path, no_arguments, run_command
from swm_jax.files import write_whole
from swm_jax.tools.analysis import Analysis, advice, analyse, grouped, weak_scaling
from swm_jax.tools.programs import (
    Program,
    has_loop,
    loop_program,
    planner_program,
    train_program,
)
from swm_jax.tools.roofline import HOP_SECONDS, MATMUL_SHARE
from swm_jax.tools.topology import Slice, TopologyError, get_slice
from swm_jax.training import Experiment
from swm_jax.training.sharding import batch_shards, make_mesh

PROGRAMS = ("train", "planner", "loop")


def main(argv: list[str]) -> None:
    """Prints a report per program, then the verdict."""
    no_arguments(argv)
    jax.config.update("jax_platforms", "cpu")  # keep away from real devices
    try:
        result = run(
            _CONFIG.value,
            _TOPOLOGY.value,
            _PROGRAMS.value,
            _SCENES.value,
            _SCALE.value,
            _HLO.value,
        )
    except (TopologyError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if _JSON.value:
        write_whole(_JSON.value, json.dumps(result, indent=1) + "\n")
    print(result["verdict"])
    sys.exit(0 if result["fits"] else 3)


def run(
    config: ml_collections.ConfigDict,
    topology: str,
    programs: Sequence[str] = (),
    scenes: int = 0,
    scale_from: str = "",
    hlo: str = "",
) -> dict[str, Any]:
    """Compiles programs, prints reports and returns the content of `--json`.

    Args:
      config: of an experiment.
      topology: for example "v5e:4x4".
      programs: of `PROGRAMS`; empty: all that the experiment has.
      scenes: parallel scenes of planner and closed loop; 0 takes one per chip.
      scale_from: a smaller slice to compare the train step with.
      hlo: a folder for the compiled programs' text.

    Raises:
      TopologyError: an unknown slice, or libtpu is missing.
      ValueError: a config that does not fit the slice, or an unknown program.
    """
    experiment = Experiment.parse(config)
    if not programs:
        programs = PROGRAMS if has_loop(experiment) else PROGRAMS[:2]
    for name in programs:
        known("program", name, PROGRAMS)
    slice_ = get_slice(topology)
    mesh = make_mesh(vars(experiment.mesh), slice_.devices)
    scenes = scenes or slice_.chips
    shape = (
        " x ".join(f"{name} {n}" for name, n in mesh.shape.items() if n > 1) or "of one"
    )
    print(
        f"{experiment.name} ({experiment.model.variant}, layout "
        f"{experiment.model.layout}) on "
        f"{slice_.chips} chip(s) of {slice_.name}, mesh {shape}; jax {jax.__version__}",
        flush=True,
    )
    make = {
        "train": lambda: train_program(experiment, mesh),
        "planner": lambda: planner_program(experiment, mesh, scenes),
        "loop": lambda: loop_program(experiment, mesh, scenes),
    }
    found = []
    for name in programs:
        keep = Path(hlo) / f"{name}.txt" if hlo else None
        found.append(analyse(make[name](), slice_, mesh, keep))
        print(describe(found[-1], slice_), flush=True)
    result = {
        "config": experiment.name,
        "layout": experiment.model.layout,
        "topology": slice_.name,
        "chips": slice_.chips,
        "mesh": dict(mesh.shape),
        "jax": jax.__version__,
        "programs": [as_json(each, slice_) for each in found],
        "fits": all(each.fits for each in found),
        "verdict": verdict(found, experiment, batch_shards(mesh)),
    }
    if scale_from and "train" in programs and found[programs.index("train")].fits:
        result["weak_scaling"] = _scale(
            experiment, slice_, found[programs.index("train")], scale_from
        )
    return result


def _scale(
    experiment: Experiment, slice_: Slice, large: Analysis, name: str
) -> dict[str, Any]:
    """Weak scaling of the train step from a smaller slice, at equal images per chip."""
    small = get_slice(name)
    data = experiment.data
    images, rest = divmod(data.images * small.chips, slice_.chips)
    if rest or small.chips >= slice_.chips:
        raise ValueError(
            f"{data.images} images on {slice_.chips} chips are no whole number "
            f"on the {small.chips} of {name}, or it is no smaller slice"
        )
    data = dataclasses.replace(data, images=images)
    less = dataclasses.replace(experiment, data=data)
    mesh = make_mesh(vars(less.mesh), small.devices)
    base = analyse(train_program(less, mesh), small, mesh)
    if not base.fits:
        change = advice(base, less, batch_shards(mesh))
        raise ValueError(f"the train step does not fit {name}: {change}")
    shares = weak_scaling(base, large)
    listed = ", ".join(f"{key} {100 * value:.1f} %" for key, value in shares.items())
    assert large.time is not None  # only programs that fit come here
    print(
        f"weak scaling from {small.name} to {slice_.name}, "
        f"{images / small.chips:g} images per chip: {listed}; limited by "
        f"{large.time.limiting}\n",
        flush=True,
    )
    return {"from": small.name, **shares, "limited by": large.time.limiting}


def describe(analysis: Analysis, slice_: Slice) -> str:
    """Report of one program as text."""
    program, chip = analysis.program, slice_.chip
    lines = [f"\n{program.name}, compiled in {analysis.compile_seconds:.0f} s"]
    if analysis.time is None:
        refused = "refused by the compiler" if analysis.compile_seconds else "too large"
        lines = [f"\n{program.name}, {refused}"]
    counted = ", ".join(f"{count:,} {what}" for what, count in program.work.items())
    lines.append(
        f"  {program.parameters:,} parameters; {program.flops / 1e12:,.3g} TFLOP for "
        f"{counted}"
    )
    if analysis.time is None:
        lines.append(f"  held between calls, per chip: {_sizes(program.held)}\n")
        return "\n".join(lines)
    lines.append(f"  memory per chip: {_sizes(analysis.memory)}")
    for row in grouped(analysis.collectives):
        lines.append(
            f"  {row['kind']} over {' and '.join(row['axes']) or 'no axis'} "
            f"({row['devices']} chips): {row['count']} times, "
            f"{_bytes(row['received'])} received per chip, the largest of "
            f"{_bytes(row['largest'])}"
        )
    for name in analysis.unknown_loops:
        lines.append(f"  loop {name} counts once: its length is not in the program")
    time, done = analysis.time, program.work
    lines.append(
        f"  per call: matrix products {_ms(time.compute)} at "
        f"{chip.bf16_flops / 1e12:.0f} TFLOP/s, memory {_ms(time.memory)} at "
        f"{chip.hbm_bandwidth / 1e9:.0f} GB/s, network {_ms(time.network)} at "
        f"{chip.link_bandwidth / 1e9:.0f} GB/s a link"
        + (f", most of it {time.limiting}" if time.limiting else "")
    )
    bounds = (f"best, limited by {time.bound},", time.best), ("worst", time.worst)
    for name, seconds in bounds:
        rates = ", ".join(f"{_rate(n / seconds)} {what}/s" for what, n in done.items())
        lines.append(
            f"  at {name} {_ms(seconds)}: {rates}, MFU "
            f"{100 * mfu(analysis, slice_, seconds):.0f} %"
        )
    if program.name == "closed loop":
        lines.append(
            "  (operations are the model's alone, and physics is many small kernels: "
            "these times leave most of its latency out)"
        )
    lines.append(
        "  (at best all three overlap; at worst products reach "
        f"{MATMUL_SHARE:.0%} of the paper rate and no collective overlaps; "
        f"{HOP_SECONDS * 1e6:.0f} us a hop)\n"
    )
    return "\n".join(lines)


def verdict(found: list[Analysis], experiment: Experiment, shards: int = 1) -> str:
    """One line: "fits" or "does not fit", with the reason.

    Args:
      shards: parts that the mesh splits a batch into.
    """
    parts = [
        f"{each.program.name} {_bytes(each.needed)} of {_bytes(each.available)}"
        for each in found
        if each.fits
    ]
    reasons = [
        f"{each.program.name} needs {_bytes(each.needed)} of "
        f"{_bytes(each.available)} per chip; {advice(each, experiment, shards)}"
        for each in found
        if not each.fits
    ]
    if reasons:
        return "does not fit: " + "; ".join(reasons)
    return "fits: " + ", ".join(parts) + " per chip"


def mfu(analysis: Analysis, slice_: Slice, seconds: float) -> float:
    """Model FLOPs utilisation: recomputed products do not count."""
    rate = slice_.chips * slice_.chip.bf16_flops
    return analysis.program.model_flops / (seconds * rate)


def as_json(analysis: Analysis, slice_: Slice) -> dict[str, Any]:
    """Everything about one program, in bytes and seconds."""
    program: Program = analysis.program
    row = {
        "program": program.name,
        "fits": analysis.fits,
        "parameters": program.parameters,
        "flops": program.flops,
        "model_flops": program.model_flops,
        "work": dict(program.work),
        "memory": analysis.memory or dict(program.held),
        "needed": analysis.needed,
        "available": analysis.available,
        "collectives": grouped(analysis.collectives),
        "unknown_loops": list(analysis.unknown_loops),
        "compile_seconds": round(analysis.compile_seconds, 1),
    }
    for key, time in (("time", analysis.time), ("line_time", analysis.line_time)):
        if time is not None:
            row[key] = {
                "compute": time.compute,
                "memory": time.memory,
                "network": time.network,
                "best": time.best,
                "worst": time.worst,
                "bound": time.bound,
                "limiting": time.limiting,
                "mfu_best": mfu(analysis, slice_, time.best),
                "mfu_worst": mfu(analysis, slice_, time.worst),
            }
    return row


def _sizes(sizes) -> str:
    return ", ".join(f"{name} {_bytes(size)}" for name, size in sizes.items() if size)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if abs(size) < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.2f} GB"


def _rate(count: float) -> str:
    return f"{count:,.0f}" if count >= 10 else f"{count:.2g}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms"


if __name__ == "__main__":  # flags of commands imported together would clash
    _CONFIG = define_config(
        "experiments/board_3b.py", "Experiment config file.", status=2
    )
    _TOPOLOGY = flags.DEFINE_string(
        "topology", "v5e:4x4", "Chip and shape of the slice."
    )
    _PROGRAMS = flags.DEFINE_list(
        "programs", [], f"Of {', '.join(PROGRAMS)}; empty: all that the experiment has."
    )
    _SCENES = flags.DEFINE_integer(
        "scenes", 0, "Scenes planned for at once; 0 takes one per chip.", 0
    )
    _SCALE = flags.DEFINE_string(
        "scale_from",
        "",
        "A smaller slice: weak scaling from it, images per chip alike.",
    )
    _JSON = define_path("json", "", "Also write everything to this file.")
    _HLO = define_path("hlo", "", "Keep the optimised programs in this folder.")
    run_command(main, status=2)
