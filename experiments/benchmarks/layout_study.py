"""Accuracy of the token layouts `full`, `block` and `branched` on the board.

    python -m experiments.benchmarks.layout_study --workdir runs/layouts
    python -m experiments.benchmarks.layout_study --debug --workdir runs/layouts_debug

The defaults are for an accelerator; a smaller study takes two hours on one CPU core:

    python -m experiments.benchmarks.layout_study --seeds 0:1 --queries 12 \
        --pretrain_steps 900 --steps 1200 --candidates 32 --tasks reach \
        --episodes 5000:5010

Every (layout, seed) trains both stages of `experiments/board_tiny.py` on the same
examples. Then each slower layout trains again with fewer steps, to take the time of the
fastest one ("equal time"). Each run is evaluated by `swm_jax.eval`: balanced QA
accuracy, action sensitivity, planning success.

The study resumes when it is run again. Each run has its own folder, so several machines
can share the work by `--layouts` and `--seeds`; the last one writes `table.md`,
`study.json` and `curves.html` to the workdir.
"""

import statistics
import sys
from pathlib import Path

import swm_jax  # noqa: F401  (sets NPROC before jax starts)

import numpy as np  # isort: skip
from absl import flags, logging

from experiments import board_tiny
from experiments.benchmarks.parts.timing import machine
from swm_jax import worlds
from swm_jax.cli import define_path, run_command
from swm_jax.eval.config import parse_seeds, preset
from swm_jax.eval.journal import read_json, write_json
from swm_jax.eval.report import charts
from swm_jax.eval.sweep import evaluate
from swm_jax.files import write_whole
from swm_jax.models.config import LAYOUTS
from swm_jax.training import train
from swm_jax.training.monitoring.metrics import read_metrics

_WORKDIR = define_path("workdir", "runs/layouts", "Runs and results.")
_DATA = define_path("data", "data/board", "Episodes of the board.")
_LAYOUTS = flags.DEFINE_multi_enum("layouts", list(LAYOUTS), LAYOUTS, "To compare.")
_SEEDS = flags.DEFINE_string("seeds", "0:3", "Of weights and batches, end excluded.")
_VARIANT = flags.DEFINE_string("variant", "tiny", "Model size.")
_PRETRAIN = flags.DEFINE_integer("pretrain_steps", 1500, "Of the first stage.", 1)
_STEPS = flags.DEFINE_integer("steps", 4000, "Of the second stage.", 1)
_IMAGES = flags.DEFINE_integer("images", 16, "Per step, both stages.", 1)
_QUERIES = flags.DEFINE_integer("queries", 72, "Per image of the second stage.", 1)
_TASKS = flags.DEFINE_list(
    "tasks", list(worlds.load("board").tasks.names), "That are planned."
)
_CANDIDATES = flags.DEFINE_integer("candidates", 0, "Per round; 0: the planner's own.")
_EPISODES = flags.DEFINE_string("episodes", "5000:5020", "Seeds of planning episodes.")
_DEBUG = flags.DEFINE_bool("debug", False, "A few steps of a small model, minutes.")

STAGES = ("pretrain", "swm")
EQUALS = ("examples", "time")
NEARLY = 0.95  # shares of the fastest layout's time above this count as equal
COLUMNS = ("QA accuracy", "action sensitivity", "planning success")


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    print(machine(), flush=True)
    workdir, seeds = Path(_WORKDIR.value), parse_seeds(_SEEDS.value)
    runs = [(layout, seed) for layout in _LAYOUTS.value for seed in seeds]
    for layout, seed in runs:
        run(workdir / f"{layout}-{seed}", layout, seed, share=1.0)
    known = {r: seconds(workdir / "{}-{}".format(*r)) for r in runs}
    mean = {
        layout: statistics.fmean(t for (name, _), t in known.items() if name == layout)
        for layout in _LAYOUTS.value
    }
    shortest = min(mean.values())
    for layout, seed in runs:
        share = shortest / mean[layout]
        folder = workdir / f"{layout}-{seed}-time"
        if share < NEARLY:
            run(folder, layout, seed, share=kept_share(folder, share))
    publish(workdir, collect(workdir, runs))


def run(folder: Path, layout: str, seed: int, share: float) -> None:
    """Trains both stages of one run with a share of the steps, and evaluates it."""
    if (folder / "eval/results.json").exists():
        return
    print(f"\n{folder.name}: {share:.0%} of the steps", flush=True)
    steps = dict(zip(STAGES, (_PRETRAIN.value, _STEPS.value)))
    for stage in STAGES:
        config = board_tiny.get_config(
            {"pretrain": "pretrain_debug", "swm": "debug"}[stage]
            if _DEBUG.value
            else stage
        )
        config.seed, config.model.layout = seed, layout
        if not _DEBUG.value:
            config.model.variant = _VARIANT.value
            config.steps, config.data.images = steps[stage], _IMAGES.value
            shrink(config.data, _QUERIES.value)
        config.steps = max(1, round(share * config.steps))
        config.keep_checkpoints = 1
        if stage == "swm":
            config.data.dir = _DATA.value
            config.init_from = str(folder / "pretrain")
        train(config, folder / stage)
        reached = read_metrics(folder / stage)[-1]["step"]
        if reached < config.steps:  # a signal ended it, after it was saved
            sys.exit(f"stopped at step {reached}; the same command goes on from here")
    small = dict(
        tasks=("reach",), seeds=(5000,), candidates=8, iterations=1, max_steps=4,
        qa_episodes=4, qa_queries=64, sensitivity_scenes=2, sensitivity_candidates=8,
    )  # fmt: skip
    asked = dict(
        tasks=tuple(_TASKS.value),
        seeds=parse_seeds(_EPISODES.value),
        candidates=_CANDIDATES.value,
    )
    evaluation = preset(
        "demo",
        checkpoint=str((folder / "swm").absolute()),
        world_models=("swm",),
        data_dir=str(Path(_DATA.value).absolute()),
        video=False,
        **(small if _DEBUG.value else asked),
    )
    evaluate(evaluation, folder / "eval")


def shrink(data, queries: int) -> None:
    """Reduces queries per image, since `full` has a whole sequence for each."""
    data.queries, data.questions = queries, min(data.questions, queries)
    kinds, rendered = ("detections", "descriptions", "present_questions"), data.rendered
    whole = sum(rendered[kind] for kind in kinds)
    for kind in kinds:
        rendered[kind] = max(1, round(min(1, queries / whole) * rendered[kind]))


def kept_share(folder: Path, share: float) -> float:
    """Stored share of steps of a run, fixed when the run first starts."""
    path = folder / "share.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, share)
    return read_json(path)


def seconds(folder: Path) -> float:
    """Training time of both stages at their median speed, without compilation."""
    total = 0.0
    for stage in STAGES:
        rows = read_metrics(folder / stage)
        paces = [row["steps_per_second"] for row in rows if "steps_per_second" in row]
        # The first rate includes the compilation.
        total += rows[-1]["step"] / statistics.median(paces[1:] or paces)
    return total


def collect(workdir: Path, runs) -> list[dict]:
    """Rows of the study: one per evaluated run and kind of equality."""
    rows = []
    for equal in EQUALS:
        for layout, seed in runs:
            folder = workdir / f"{layout}-{seed}"
            slower = workdir / f"{layout}-{seed}-time"
            if equal == "time" and slower.exists():
                folder = slower
            found = read_json(folder / "eval/results.json")
            rates = [row["rate"] for row in found["planning"]]
            figures = (
                found["qa"]["balanced_accuracy"],
                found["action_sensitivity"]["mean"],
                statistics.fmean(rates),
            )
            log = read_metrics(folder / "swm")
            rows.append(
                {
                    "equal": equal,
                    "layout": layout,
                    "seed": seed,
                    "steps": log[-1]["step"],
                    "seconds": round(seconds(folder), 1),
                    **dict(zip(COLUMNS, figures)),
                    "curve": [
                        (row["step"], row["validation/accuracy"])
                        for row in log
                        if "validation/accuracy" in row
                    ],
                }
            )
    return rows


def publish(workdir: Path, rows: list[dict]) -> None:
    """Writes table, figures and curves."""
    head = ("equal", "layout", "seeds", "steps", "seconds", *COLUMNS)
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for equal in EQUALS:
        for layout in _LAYOUTS.value:
            same = [r for r in rows if (r["equal"], r["layout"]) == (equal, layout)]
            cells = [equal, layout, str(len(same)), str(same[0]["steps"])]
            cells.append(f"{statistics.fmean(r['seconds'] for r in same):.0f}")
            for column in COLUMNS:
                values = [r[column] for r in same if r[column] is not None]
                spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}" if values else "-")
            lines.append("| " + " | ".join(cells) + " |")
    table = "\n".join(lines)
    asked = (_PRETRAIN, _STEPS, _IMAGES, _QUERIES, _TASKS, _CANDIDATES, _EPISODES)
    settings = {flag.name: flag.value for flag in asked} | {"machine": machine()}
    write_json(workdir / "study.json", {"settings": settings, "runs": rows})
    write_whole(workdir / "table.md", table + "\n")
    write_whole(workdir / "curves.html", curves(rows))
    print(f"\n{table}\n\n± is the standard deviation over seeds; all in {workdir}")


def curves(rows: list[dict]) -> str:
    """Held-out accuracy during training by step and by second, mean over seeds."""
    pages = []
    for name, scale in (("step", False), ("second of training", True)):
        series = []
        for layout in _LAYOUTS.value:
            same = [
                r for r in rows if r["equal"] == "examples" and r["layout"] == layout
            ]
            x, y = np.mean([r["curve"] for r in same], 0).T
            pace = np.mean([r["seconds"] / r["steps"] for r in same]) if scale else 1.0
            series.append((layout, list(x * pace), list(y)))
        pages.append(charts.lines(series, f"accuracy by {name}", name, "accuracy"))
    style = (
        ":root{--c0:#2563eb;--c1:#d97706;--c2:#059669}svg{max-width:44rem;display:block}"
        ".line{fill:none;stroke-width:2}line{stroke:#bbb}text{font:12px sans-serif}"
    )
    title = "Accuracy of token layouts"
    head = f"<!doctype html><meta charset=utf-8><title>{title}</title>"
    return f"{head}<style>{style}</style><h1>{title}</h1>{''.join(pages)}\n"


if __name__ == "__main__":
    run_command(main)
