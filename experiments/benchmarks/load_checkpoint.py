"""Memory of loading a checkpoint: peak resident set over the checkpoint's size.

    python -m experiments.benchmarks.load_checkpoint

Writes a Hugging Face folder of the named variant in bfloat16 with synthetic values
(5.9 GB for `paligemma_3b_224`) to a temporary folder, then loads it, converts it to
Orbax and loads that, each in a separate process, and removes all files.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags, logging

import swm_jax
from swm_jax.checkpoints.convert import convert
from swm_jax.checkpoints.formats.detect import open_source
from swm_jax.checkpoints.formats.huggingface.config import embedding_rows, write_config
from swm_jax.checkpoints.formats.huggingface.folder import SHARD_BYTES
from swm_jax.checkpoints.formats.huggingface.table import EMBEDDING, rules_for
from swm_jax.checkpoints.formats.lazy_arrays import DTYPES, model_shapes
from swm_jax.checkpoints.formats.safetensors_files import PlannedTensor, write_tensors
from swm_jax.cli import define_path, run_command
from swm_jax.models import get_config

_VARIANT = flags.DEFINE_string("variant", "paligemma_3b_224", "Whose shapes.")
_FOLDER = define_path("folder", None, "Where the temporary folder lies.")
_LIMIT = flags.DEFINE_float("limit", 1.3, "Largest peak over size.")
_PHASE = flags.DEFINE_string("phase", None, "Set by this program for its processes.")

PHASES = (
    ("load", "hugging_face"),
    ("convert", "hugging_face"),
    ("load", "orbax"),
)


def write_synthetic(folder: Path, variant: str) -> int:
    """Writes a checkpoint with the shapes of a variant; returns its size in bytes."""
    config, kind = get_config(variant), DTYPES["bfloat16"]
    shapes = model_shapes(config)
    rng = np.random.default_rng(0)
    values = (rng.normal(size=1 << 20) * 0.02).astype(kind)

    def pieces(count: int) -> Iterator[np.ndarray]:
        while count:
            yield values[:count]
            count -= min(count, len(values))

    tensors = []
    for key, rule in rules_for(shapes).items():
        shape = rule.their_shape(shapes[key])
        if key == EMBEDDING:
            shape = (embedding_rows(config, {}), shape[1])
        for name in rule.names(shapes[key]):
            parts = pieces(int(np.prod(shape)))
            tensors.append(PlannedTensor(name, shape, kind, parts))
    folder.mkdir()
    found = write_config(config, {}, True, "bfloat16")
    (folder / "config.json").write_text(json.dumps(found))
    return sum(write_tensors(folder, tensors, SHARD_BYTES))


def peak_bytes() -> int:
    """Peak resident set of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: this needs Linux")


def run_phase(phase: str, kind: str, folder: Path) -> None:
    """One measurement in this process, printed as JSON."""
    began, before = time.monotonic(), peak_bytes()
    # Use the shipped tokenizer, since the folder has none.
    if phase == "convert":
        source = open_source(folder / kind, tokenizer="tiny")
        convert(source, folder / "orbax")
    else:
        swm_jax.load(folder / kind, tokenizer="tiny" if kind != "orbax" else None)
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak_bytes()}))


def main(argv: list[str]) -> None:
    """Prints one line per measurement; exit status 1 if one is above the limit."""
    if _PHASE.value:
        logging.set_verbosity(logging.ERROR)  # Orbax logs every file
        run_phase(*_PHASE.value.split(","), Path(argv[1]))
        return
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=_FOLDER.value, prefix="load-") as name:
        folder = Path(name)
        began = time.monotonic()
        size = write_synthetic(folder / "hugging_face", _VARIANT.value)
        print(f"{_VARIANT.value}: {size / 1e9:.2f} GB of bfloat16 written in "
              f"{time.monotonic() - began:.0f} s to {folder}", flush=True)  # fmt: skip
        for phase, kind in PHASES:
            command = [sys.executable, "-m", "experiments.benchmarks.load_checkpoint"]
            done = subprocess.run(
                [*command, f"--phase={phase},{kind}", name],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
                check=True,
            )
            found = json.loads(done.stdout.strip().splitlines()[-1])
            ratio = found["peak"] / size
            worst = max(worst, ratio)
            print(
                f"{phase:8} {kind:13} {found['seconds']:7.1f} s   peak "
                f"{found['peak'] / 1e9:5.2f} GB = {ratio:.2f} x its size "
                f"({found['before'] / 1e9:.2f} GB before)",
                flush=True,
            )
    verdict = "within" if worst <= _LIMIT.value else "above"
    print(f"worst {worst:.2f}, {verdict} the limit of {_LIMIT.value}")
    if worst > _LIMIT.value:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
