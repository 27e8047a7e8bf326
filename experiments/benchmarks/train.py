"""Benchmark of training: labels/s, tokens/s and MFU of several ways to train.

    python -m experiments.benchmarks.train --preset cpu       # 1 layer, 3 minutes
    python -m experiments.benchmarks.train --preset h200      # the 3B model, 8 minutes
    python -m experiments.benchmarks.train --preset h200 --data data/board

A label is one answered question. The ways run in one process, alternating for
`--rounds` rounds, with the same weights and an AdamW step each:

    packed      24 questions and horizons per image, layout `branched`
    single      one question per sequence, layout `full`: ours, the published way
    reference   the same in PyTorch: `transformers` and a Trainer-like loop
    lora        packed, adapters on both towers (preset h200)

All compute logits at answer tokens only. First, the losses of every query are compared
between single and reference. MFU is operations counted from shapes over the chip's peak
rate (for known chips); "of measured" includes recomputation by rematerialisation and is
relative to the measured rate of a large matrix product. Operations of the reference
are counted as those of single, padding included. With `--data` the input pipeline is
measured alone; it should be twice as fast as the fastest way.
"""

import dataclasses
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.benchmarks.parts.train_ways import (
    PRESETS,
    QUERIES,
    QUESTIONS,
    Preset,
    Way,
    experiment,
    jax_way,
    reference_way,
)
from swm_jax.cli import define_path, no_arguments, run_command
from swm_jax.eval.journal import write_json

# Peak rates of bfloat16 matrix products without sparsity, FLOP/s, by device kind.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12} | {
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v6 lite": 918e12
}  # fmt: skip


def main(argv: list[str]) -> None:
    """Prints a table of the ways and the rates that they are compared with."""
    no_arguments(argv)
    # PyTorch shares the GPU, so XLA must not preallocate its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    preset = PRESETS[_PRESET.value]
    names = _WAYS.value or list(preset.ways)
    for name in names:
        if name not in preset.ways:
            raise app.UsageError(
                f"unknown way '{name}'; known: {', '.join(preset.ways)}"
            )
    rate = measured_rate(preset.square)
    kind = jax.devices()[0].device_kind
    print(
        f"{_PRESET.value} on {jax.device_count()} x {kind}; jax {jax.__version__}; "
        f"matrix products of {preset.square} run at {rate / 1e12:.3g} TFLOP/s",
        flush=True,
    )
    rows = []
    for makers in _groups(preset, names):
        ways = [way for way in (make() for make in makers) if way is not None]
        for _ in range(_ROUNDS.value):
            for way in ways:
                _measure(way)
        for way in ways:
            rows.append(row_of(way, rate, _peak(kind)))
            print(_line(rows[-1]), flush=True)
        del ways
        gc.collect()
        jax.clear_caches()
        if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
            sys.modules["torch"].cuda.empty_cache()
    _compare(rows)
    if _DATA.value:
        _pipeline(preset, rows)
    if _JSON.value:
        write_json(Path(_JSON.value), rows)


def _groups(preset: Preset, names: list[str]) -> list[list[Callable[[], Way | None]]]:
    """Groups of ways that alternate: one each on accelerators, for lack of memory."""
    makers = {
        "packed": lambda: jax_way("packed", preset),
        "lora": lambda: jax_way("lora", preset),
        "single": lambda: jax_way("single", preset),
        "reference": lambda: reference_way(preset),
    }
    chosen = [makers[name] for name in names]
    return [chosen] if jax.default_backend() == "cpu" else [[m] for m in chosen]


def measured_rate(side: int) -> float:
    """FLOP/s of one large matrix product, in training's dtype on this device."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    x = jnp.ones((side, side), dtype)
    product = jax.jit(lambda x: (x @ x) * 1e-4)
    jax.block_until_ready(product(x))
    best, started = np.inf, time.perf_counter()
    while time.perf_counter() - started < 2.0:
        begun = time.perf_counter()
        for _ in range(4):
            x = product(x)
        jax.block_until_ready(x)
        best = min(best, (time.perf_counter() - begun) / 4)
    return 2 * side**3 / best


def row_of(way: Way, rate: float, peak: float | None) -> dict[str, Any]:
    """Speed of a way, from the median of its measured steps."""
    seconds = statistics.median(way.seconds)
    devices = 1 if way.name == "reference" else jax.device_count()
    return {
        "way": way.name,
        "labels per step": way.labels,
        "seconds per step": seconds,
        "labels/s": way.labels / seconds,
        "tokens/s": way.tokens / seconds,
        "TFLOP/s": way.flops / seconds / 1e12,
        "MFU": None if peak is None else way.flops / seconds / (peak * devices),
        "of measured": way.executed / seconds / (rate * devices),
        "steps": len(way.seconds),
    }


def _measure(way: Way) -> None:
    """Measures steps for `--seconds`, without the first one, which compiles."""
    if not way.seconds:
        print(f"{way.name}: first loss {way.step():.3f}", flush=True)
    started = time.perf_counter()
    while True:
        begun = time.perf_counter()
        way.step()
        now = time.perf_counter()
        way.seconds.append(now - begun)
        if now - started >= _SECONDS.value:
            return


def _line(row: dict[str, Any]) -> str:
    mfu = "" if row["MFU"] is None else f"MFU {100 * row['MFU']:.1f} %, "
    return (
        f"{row['way']:10} {row['labels/s']:10.2f} labels/s {row['tokens/s']:12,.0f} "
        f"tokens/s, {mfu}{100 * row['of measured']:.0f} % of the measured rate; "
        f"{row['labels per step']} labels in {row['seconds per step']:.3f} s"
    )


def _compare(rows: list[dict[str, Any]]) -> None:
    by_name = {row["way"]: row["labels/s"] for row in rows}
    for base in ("single", "reference"):
        if base in by_name and "packed" in by_name:
            ratio = by_name["packed"] / by_name[base]
            print(f"packed gives {ratio:.1f} x the labels/s of {base}", flush=True)


def _pipeline(preset: Preset, rows: list[dict[str, Any]]) -> None:
    """Images/s of the input pipeline alone, compared with those of a packed step."""
    from data_pipelines.batches import stream as pipeline
    from swm_jax.models import Tokenizer

    config = experiment(preset, "packed")
    data = dataclasses.replace(
        config.data, questions=QUESTIONS, queries=QUERIES, images=96
    )
    model = dataclasses.replace(
        config.model.config(), max_horizon=16, max_question_tokens=16
    )
    stream = pipeline.make_train_iterator(
        _DATA.value, data, Tokenizer.load("tiny"), model, seed=0
    )
    for _ in range(4):
        next(stream)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < 10.0:
        count += len(next(stream).image)
    rate = count / (time.perf_counter() - started)
    print(
        f"input pipeline alone ({_DATA.value}, {config.data.threads} threads): "
        f"{rate:,.0f} images/s, {rate * QUERIES:,.0f} labels/s"
    )
    eaten = [row["labels/s"] / QUERIES for row in rows if row["way"] == "packed"]
    if eaten:
        times = rate / eaten[0]
        word = "enough" if times >= 2 else "too slow: raise config.data.threads"
        print(f"the packed step eats {eaten[0]:,.1f} images/s: {times:.1f} x, {word}")


def _peak(kind: str) -> float | None:
    return next((rate for name, rate in PEAKS.items() if name in kind), None)


if __name__ == "__main__":  # flags of commands imported together would clash
    _PRESET = flags.DEFINE_enum(
        "preset", "cpu", ("cpu", "h200", "tiny"), "What to measure."
    )
    _WAYS = flags.DEFINE_list("ways", [], "Of the preset's ways; empty: all of them.")
    _ROUNDS = flags.DEFINE_integer("rounds", 2, "How often each way is measured.", 1)
    _SECONDS = flags.DEFINE_float(
        "seconds", 0.0, "Of each measurement; 0: one step.", 0
    )
    _DATA = define_path("data", "", "Data set, to measure the input pipeline.")
    _JSON = define_path("json", "", "Also write the rows to this file.")
    run_command(main)
