"""Memory and time of a program compiled for a slice."""

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from swm_jax.tools.collectives import Collective, collectives
from swm_jax.tools.hlo import parse_hlo
from swm_jax.tools.programs import Program
from swm_jax.tools.roofline import StepTime, step_time
from swm_jax.tools.topology import Slice
from swm_jax.tools.traffic import memory_traffic
from swm_jax.training import Experiment

_REFUSALS = (
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
    r"memory required for HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM "
    r"\(([\d.]+)([KMGT]?)\)",
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Memory and time of one program on one chip of a slice.

    Attributes:
      program: the compiled program.
      fits: whether its memory fits.
      memory: bytes by kind at the peak, `needed` in total; empty if XLA refused it.
      needed, available: total bytes, and bytes available to a program.
      collectives: largest traffic first.
      time: the roofline; None if it does not compile.
      line_time: the roofline with closed rings counted as lines.
      unknown_loops: loops counted once because their trip count is not in the HLO.
      compile_seconds: of tracing and compiling.
    """

    program: Program
    fits: bool
    memory: dict[str, int]
    needed: int
    available: int
    collectives: tuple[Collective, ...] = ()
    time: StepTime | None = None
    line_time: StepTime | None = None
    unknown_loops: tuple[str, ...] = ()
    compile_seconds: float = 0.0


def analyse(
    program: Program, slice_: Slice, mesh: Mesh, keep: Path | None = None
) -> Analysis:
    """Compiles a program and analyses the result.

    Args:
      program: lowered on demand.
      slice_: to compile for.
      mesh: of the slice's devices.
      keep: path for the optimised HLO, as text; None to discard it.

    Raises:
      jax.errors.JaxRuntimeError: a failure of XLA for other reasons than memory.
    """
    started, available = time.perf_counter(), int(slice_.chip.hbm_bytes)
    if (held := sum(program.held.values())) > available:  # no compiler needs to say it
        return Analysis(program, False, {}, held, available)
    try:
        compiled = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        size = out_of_memory(str(error))
        if size is None:
            raise
        spent = time.perf_counter() - started
        return Analysis(program, False, {}, *size, compile_seconds=spent)
    spent = time.perf_counter() - started
    used = compiled.memory_analysis()
    text = compiled.as_text()
    if used is None or text is None:
        raise ValueError(f"the compiler says nothing of {program.name}: another XLA")
    if keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.write_text(text, encoding="utf-8")
    parsed = parse_hlo(text)
    found = tuple(collectives(parsed, dict(mesh.shape)))
    traffic = memory_traffic(parsed)
    flops = program.flops / mesh.size
    # `temp_size_in_bytes` includes results written into donated arguments.
    new = used.output_size_in_bytes - used.alias_size_in_bytes
    peak, arguments = used.peak_memory_in_bytes, used.argument_size_in_bytes
    memory = {
        **program.held,
        "layout of arguments": arguments - sum(program.held.values()),
        "temporaries": peak - arguments - new,
        "new results": new,
        "program": used.generated_code_size_in_bytes,
    }
    needed = sum(memory.values())
    timed = lambda rings: step_time(slice_, mesh.devices, flops, traffic, found, rings)
    return Analysis(
        program=program,
        fits=needed <= available,
        memory=memory,
        needed=needed,
        available=available,
        collectives=found,
        time=timed(True),
        line_time=timed(False),
        unknown_loops=parsed.unknown_loops,
        compile_seconds=spent,
    )


def out_of_memory(message: str) -> tuple[int, int] | None:
    """(bytes needed, bytes available) of XLA's out-of-memory message; None for others.

    The bytes needed include arguments and results.
    """
    match = next(filter(None, (re.search(p, message) for p in _REFUSALS)), None)
    if match is None:
        return None
    size = lambda number, unit: int(float(number) * _UNITS[unit])
    return size(match[1], match[2]), size(match[3], match[4])


def grouped(found: Sequence[Collective]) -> list[dict[str, Any]]:
    """Collectives summed by kind and mesh axes, the largest traffic first."""
    rows: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for each in found:
        row = rows.setdefault(
            (each.kind, each.axes),
            {
                "kind": each.kind,
                "axes": list(each.axes),
                "devices": len(each.group),
                "count": 0,
                "received": 0.0,
                "largest": 0,
                "largest_op": each.op,
            },
        )
        row["count"] += each.count
        row["received"] += each.received * each.count
        row["largest"] = max(row["largest"], each.bytes)
    return sorted(rows.values(), key=lambda row: -row["received"])


def weak_scaling(small: Analysis, large: Analysis) -> dict[str, float]:
    """Time per step on the small slice over that on the large one, at equal chip load.

    The values are at best, at worst, and at worst with closed rings counted as lines,
    which excludes the gain from a ring's second link. Both programs must fit.
    """
    assert small.time and small.line_time and large.time and large.line_time
    return {
        "best": small.time.best / large.time.best,
        "worst": small.time.worst / large.time.worst,
        "worst, rings as lines": small.line_time.worst / large.line_time.worst,
    }


def advice(analysis: Analysis, experiment: Experiment, shards: int = 1) -> str:
    """Suggested changes for a program that does not fit.

    Args:
      analysis: of that program.
      experiment: of the program.
      shards: parts that the mesh splits a batch into.
    """
    sizes = analysis.program.held
    held = sum(sizes.values())
    more = "a slice of more chips"
    if held > analysis.available:
        rest = "a smaller config.model"
        if analysis.program.name == "train step":
            rest = (
                "split it over more chips (config.mesh.fsdp, a larger slice), or move "
                "less (config.finetune, variant :lora)"
            )
        return f"all of it is held between calls: take chips of more memory, {rest}"
    if analysis.program.name != "train step":
        return f"fewer --scenes per chip, fewer candidates in config.planner, or {more}"
    if experiment.model.config().remat != "full":
        return "config.model.overrides.remat='full'"
    parts = experiment.accumulate
    # Gradients keep their size with more parts, and there are two: the part's, the sum.
    gradient = min(sizes.get("parameters", 0), sizes.get("optimizer state", 0) // 2)
    room = analysis.available - held - 2 * gradient
    wanted = parts * (analysis.needed - held - gradient)
    images = analysis.program.work["images"] // shards
    for n in range(parts + 1, images + 1):
        if images % n == 0 and n * room >= wanted:
            return (
                f"try config.accumulate={n} (now {parts}; images per chip at a time: "
                f"{images // n}), or {more}"
            )
    return more
