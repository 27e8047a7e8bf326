"""Tables of memory, speed and cost of the 3B models on TPU slices, for docs/pods.md.

    python -m experiments.benchmarks.pods_table               # minutes a program
    python -m experiments.benchmarks.pods_table --only v5e    # names that contain it
    python -m experiments.benchmarks.pods_table --only planner,loop

Compiles the train step of `board_3b` for every slice, 6 images per chip, and the other
programs of both 3B experiments for one slice, each in a separate process
(`swm_jax.tools.aot`), then writes two tables to the document. Reports are cached in
`--results`; `--fresh` compiles again. The tables include cached reports of programs
outside of `--only`.
"""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

from swm_jax.cli import define_path, no_arguments, run_command
from swm_jax.files import write_whole
from swm_jax.tools.topology import LIBTPU, parse_slice

IMAGES_PER_CHIP = 6
BATCH, STEPS = 96, 64_000  # of the paper
BEGIN, END = "<!-- made by experiments.benchmarks.pods_table: {} -->", "<!-- end -->"


@dataclasses.dataclass(frozen=True)
class Job:
    """A program of an experiment to compile for a slice.

    Attributes:
      program: one of `swm_jax.tools.aot.PROGRAMS`.
      topology: such as "v5e:4x4".
      experiment: a file of `experiments/`.
    """

    program: str
    topology: str
    experiment: str = "board_3b"

    @property
    def name(self) -> str:
        """Name that `--only` matches."""
        return f"{self.experiment}/{self.program}/{self.topology}"

    @property
    def chips(self) -> int:
        """Number of chips of the slice."""
        return math.prod(parse_slice(self.topology)[1])


SLICES = tuple(
    Job("train", topology)
    for topology in (
        "v5e:4x4", "v5e:8x8", "v5e:16x16", "v5p:2x2x4", "v5p:4x4x4", "v6e:4x4",
        "v6e:16x16", "v4:2x2x4",
    )
)  # fmt: skip
OTHERS = (
    Job("planner", "v5e:4x4"),
    Job("loop", "v5e:4x4"),
    Job("train", "v5e:4x4", "cube_3b"),
    Job("planner", "v5e:4x4", "cube_3b"),
)

_ONLY = flags.DEFINE_list("only", [], "Parts of names of programs; empty: all.")
_RESULTS = define_path("results", "results/pods", "Where reports are kept.")
_DOCUMENT = define_path("document", "docs/pods.md", "Empty: print only.")
_FRESH = flags.DEFINE_bool("fresh", False, "Compile again what is there.")


def main(argv: list[str]) -> None:
    """Compiles what is missing, prints the tables and writes them into the document."""
    no_arguments(argv)
    wanted = [job for job in (*SLICES, *OTHERS) if _is_wanted(job)]
    if not wanted:
        names = "\n  ".join(job.name for job in (*SLICES, *OTHERS))
        sys.exit(f"error: no program is called {_ONLY.value}; there are:\n  {names}")
    for job in wanted:
        if _FRESH.value or not _report(job).exists():
            compile_job(job)
    for name, jobs, table in (
        ("slices", SLICES, slices_table),
        ("programs", OTHERS, programs_table),
    ):
        there = [job for job in jobs if _report(job).exists()]
        missing = [job.name for job in jobs if job not in there]
        if missing:
            print(f"not compiled yet, hence in no table: {', '.join(missing)}")
        if not there:
            continue
        text = table([json.loads(_report(job).read_text()) for job in there])
        print(text)
        if _DOCUMENT.value:
            write_between(Path(_DOCUMENT.value), BEGIN.format(name), text)
            print(f"written into {_DOCUMENT.value}")


def compile_job(job: Job) -> None:
    """Runs the AOT tool, which writes the report of a job."""
    command = [
        sys.executable, "-m", "swm_jax.tools.aot", "--topology", job.topology,
        "--config", f"experiments/{job.experiment}.py", "--programs", job.program,
        "--json", str(_report(job)),
    ]  # fmt: skip
    if job.program == "train":
        command.append(f"--config.data.images={IMAGES_PER_CHIP * job.chips}")
    print(" ".join(command[1:]), flush=True)
    if subprocess.run(command).returncode not in (0, 3):
        sys.exit(f"error: {job.name} could not be compiled, see above")


def _is_wanted(job: Job) -> bool:
    return not _ONLY.value or any(part in job.name for part in _ONLY.value)


def _report(job: Job) -> Path:
    name = job.name.replace("/", "_").replace(":", "_")
    return Path(_RESULTS.value) / f"{name}.json"


def slices_table(reports: list[dict[str, Any]]) -> str:
    """Markdown table of slices; weak scaling is from the smallest one of a chip."""
    lines = [
        "| slice | chips | mesh | images | GB per chip, of | ms, best to worst "
        "| MFU | labels/s | weak scaling, as lines | network limited by | chip hours |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for report in reports:
        kind = report["topology"].partition(":")[0]
        same = [r for r in reports if r["topology"].startswith(kind + ":")]
        base = min(same, key=lambda r: r["chips"])
        lines.append(_row(_slice_cells(report, base), 11))
    return "\n".join([*lines, "", _versions(reports)])


def programs_table(reports: list[dict[str, Any]]) -> str:
    """Markdown table with one row per program of every report."""
    lines = [
        "| experiment | program | slice | one call | GB per chip, of "
        "| ms, best to worst | limited by |",
        "|---|---|---|---|---|---|---|",
    ]
    for report in reports:
        for program in report["programs"]:
            lines.append(_row(_program_cells(report, program), 7))
    return "\n".join([*lines, "", _versions(reports)])


def _slice_cells(report: dict[str, Any], base: dict[str, Any]) -> list[Any]:
    train = report["programs"][0]
    mesh = " x ".join(f"{name} {n}" for name, n in report["mesh"].items() if n > 1)
    images = train["work"]["images"]
    head = [report["topology"], report["chips"], mesh, images, _gb(train)]
    if not report["fits"]:
        return [*head, "does not fit"]
    time, labels = train["time"], train["work"]["labels"]
    best, worst = time["best"], time["worst"]
    scaling = "base"
    if report is not base and base["fits"]:
        scaling = scaling_of(base["programs"][0], train)
    hours = [
        STEPS * BATCH / images * seconds * report["chips"] / 3600
        for seconds in (best, worst)
    ]
    return [
        *head,
        _milliseconds(time),
        f"{100 * time['mfu_worst']:.0f} to {100 * time['mfu_best']:.0f} %",
        f"{labels / worst:,.0f} to {labels / best:,.0f}",
        scaling,
        time["limiting"],
        f"{hours[0]:,.0f} to {hours[1]:,.0f}",
    ]


def _program_cells(report: dict[str, Any], program: dict[str, Any]) -> list[Any]:
    work = ", ".join(f"{count:,} {what}" for what, count in program["work"].items())
    head = [report["config"], program["program"], report["topology"], work]
    head.append(_gb(program))
    if not program["fits"]:
        return [*head, "does not fit"]
    time = program["time"]
    return [*head, _milliseconds(time), time["bound"]]


def _row(cells: list[Any], width: int) -> str:
    cells = [*map(str, cells), *[""] * (width - len(cells))]
    return "| " + " | ".join(cells) + " |"


def _gb(program: dict[str, Any]) -> str:
    return f"{program['needed'] / 1e9:.1f} of {program['available'] / 1e9:.1f}"


def _milliseconds(time: dict[str, Any]) -> str:
    return f"{1e3 * time['best']:,.0f} to {1e3 * time['worst']:,.0f}"


def _versions(reports: list[dict[str, Any]]) -> str:
    return f"jax {reports[0]['jax']}, {LIBTPU.replace('==', ' ')}."


def scaling_of(small: dict[str, Any], large: dict[str, Any]) -> str:
    """Weak-scaling efficiency: the lesser of best and worst, and the worst with lines.

    With lines, the large slice's closed rings lose their second link, which excludes
    the gain from its wiring.
    """
    pairs = (("time", "best"), ("time", "worst"), ("line_time", "worst"))
    shares = [100 * small[kind][end] / large[kind][end] for kind, end in pairs]
    return f"{min(shares[:2]):.0f} %, {shares[2]:.0f} %"


def write_between(path: Path, begin: str, text: str) -> None:
    """Replaces the text between two marks of a document.

    Raises:
      SystemExit: missing marks.
    """
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, end, after = rest.partition(END)
    if not (found and end):
        sys.exit(f"error: {path} has no lines {begin!r} and {END!r} to write between")
    write_whole(path, f"{before}{begin}\n{text}\n{END}{after}")


if __name__ == "__main__":
    run_command(main)
