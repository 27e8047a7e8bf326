"""Effect of packing: held-out loss over labels, images and seconds.

    python -m experiments.benchmarks.learning_curves --init_from runs/pretrain

Trains the `tiny` model on stored board episodes in two ways for the same time and from
the same weights (the first stage of `make train`, since minutes from random weights
show no progress): many questions and horizons per image ("packed"), and one per image
("single"), with the same number of labels per step. Layout, optimizer, seed and
held-out batches are equal. Times are those of steps, without compilation. Writes
`curves.csv` and one chart per axis to `--output`.
"""

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from data_pipelines.batches.stream import make_train_iterator
from experiments import board_tiny
from swm_jax.cli import define_path, no_arguments, run_command
from swm_jax.eval.report.charts import lines
from swm_jax.models import Tokenizer, TrainBatch
from swm_jax.training import Experiment
from swm_jax.training.build import build, initial_state
from swm_jax.training.sharding import make_mesh, shard_batch
from swm_jax.training.world_model.model import TrainableWorldModel, load_start

QUESTIONS, QUERIES = 12, 24  # per image where they are packed
COLUMNS = ("way", "labels", "images", "seconds", "loss", "accuracy")
STYLE = (
    "<style>:root{--c0:#2563a8;--c1:#c2571a}svg{background:#fff;font:12px sans-serif}"
    ".line{fill:none;stroke-width:2}.grid{stroke:#ddd}.tick{fill:#333}</style>"
)


def main(argv: list[str]) -> None:
    """Trains both ways, then writes the curves."""
    no_arguments(argv)
    if _LABELS.value % QUERIES:
        raise app.UsageError(f"--labels {_LABELS.value} is no multiple of {QUERIES}")
    rows = []
    for way in ("packed", "single"):
        rows += curve(way)
    folder = Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "curves.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for axis in ("labels", "images", "seconds"):
        (folder / f"{axis}.svg").write_text(chart(rows, axis))
    print(f"curves.csv and three charts are in {folder}")


def curve(way: str) -> list[dict[str, Any]]:
    """Rows of one way, `--points` of them, evenly spaced in time."""
    config = experiment(way)
    model, tokenizer = config.model.config(), Tokenizer.load(config.model.tokenizer)
    mesh, trainable = make_mesh(vars(config.mesh)), TrainableWorldModel.of(config)
    built = build(config, trainable, mesh)
    begin = lambda params, shardings: load_start(params, _INIT.value, shardings)
    state = initial_state(config, trainable, built, begin if _INIT.value else None)

    def stream(split: str) -> Iterator[TrainBatch]:
        data = experiment("packed" if split == "val" else way).data
        return make_train_iterator(
            _DATA.value, data, tokenizer, model, seed=config.seed, split=split
        )

    batches, held = stream("train"), stream("val")
    held_out = [shard_batch(next(held), mesh) for _ in range(8)]
    place = lambda: shard_batch(next(batches), mesh)
    built.step(jax.tree.map(lambda x: x.copy(), state), place())  # compiles
    rows, done, spent = [], 0, 0.0
    for point in range(_POINTS.value + 1):
        while spent < point * _SECONDS.value / _POINTS.value:
            begun = time.perf_counter()
            state, metrics = built.step(state, place())
            jax.block_until_ready(metrics.scalars)
            spent += time.perf_counter() - begun
            done += 1
        scores = [built.evaluate(state.params, batch) for batch in held_out]
        found = trainable.report(jax.tree.map(lambda *x: np.sum(x, 0), *scores))
        labels = done * _LABELS.value
        row = (way, labels, done * config.data.images, round(spent, 2),
               found["loss"], found["accuracy"])  # fmt: skip
        rows.append(dict(zip(COLUMNS, row)))
        print(
            f"{way}: {spent:.0f} s, {labels:,} labels, {rows[-1]['images']:,} images, "
            f"held-out loss {rows[-1]['loss']:.4f}, "
            f"accuracy {rows[-1]['accuracy']:.3f}",
            flush=True,
        )
    return rows


def experiment(way: str) -> Experiment:
    """Experiment of a way: `board_tiny` without rendered scenes."""
    config = board_tiny.get_config()
    config.optimizer.schedule = "constant"
    config.data.rendered_every = 0
    packed = way == "packed"
    config.data.questions = QUESTIONS if packed else 1
    config.data.queries = QUERIES if packed else 1
    config.data.images = _LABELS.value // (QUERIES if packed else 1)
    return Experiment.parse(config)


def chart(rows: list[dict[str, Any]], axis: str) -> str:
    """Chart of the held-out loss of both ways over one axis, as the text of an SVG."""
    series = []
    for way in ("packed", "single"):
        own = [row for row in rows if row["way"] == way]
        series.append((way, [r[axis] for r in own], [r["loss"] for r in own]))
    text = lines(series, f"held-out loss against {axis}", axis, "held-out loss")
    head = '<svg xmlns="http://www.w3.org/2000/svg" '
    return text.replace("<svg ", head, 1).replace(">", f">{STYLE}", 1)


if __name__ == "__main__":  # flags of commands imported together would clash
    _DATA = define_path("data", "data/board", "Stored episodes of the board.")
    _SECONDS = flags.DEFINE_float("seconds", 240.0, "Training time of each way.", 0.1)
    _INIT = define_path("init_from", "", "Checkpoint; empty: random weights.")
    _POINTS = flags.DEFINE_integer("points", 20, "Looks at the held-out loss.", 1)
    _LABELS = flags.DEFINE_integer(
        "labels", 576, "Labels of a step, a multiple of 24.", 24
    )
    _OUTPUT = define_path("output", "results/curves", "Folder of csv and charts.")
    run_command(main)
