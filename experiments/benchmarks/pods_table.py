"""Which TPU slices train the 3B model, how fast and at what cost: docs/pods.md.

    python -m experiments.benchmarks.pods_table            # about 3 minutes a slice
    python -m experiments.benchmarks.pods_table --only v5e:4x4,v5e:16x16

Compiles the train step of `board_3b` for every slice, 6 images per chip, each in a
process of its own (`swm_jax.tools.aot`), and writes the table into the document. What
was compiled stays in `--results` and is not compiled again; `--fresh` does so.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from swm_jax.tools.roofline import MATMUL_SHARE
from swm_jax.tools.topology import parse_slice

SLICES = (
    "v5e:4x4", "v5e:8x8", "v5e:16x16", "v5p:2x2x4", "v5p:4x4x4", "v6e:4x4", "v6e:16x16",
)  # fmt: skip
IMAGES_PER_CHIP = 6
BATCH, STEPS = 96, 64_000  # of the paper
BEGIN, END = "<!-- made by experiments.benchmarks.pods_table -->", "<!-- end -->"

_ONLY = flags.DEFINE_list("only", list(SLICES), "Slices of the table.")
_RESULTS = flags.DEFINE_string("results", "results/pods", "Where reports are kept.")
_DOCUMENT = flags.DEFINE_string("document", "docs/pods.md", "Empty: print only.")
_FRESH = flags.DEFINE_bool("fresh", False, "Compile again what is there.")


def main(argv: list[str]) -> None:
    """Compiles what is missing, prints the table and writes it into the document."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; flags start with --")
    reports = [report_of(name) for name in _ONLY.value]
    text = table(reports)
    print(text)
    if _DOCUMENT.value:
        write_between(Path(_DOCUMENT.value), text)
        print(f"written into {_DOCUMENT.value}")


def report_of(name: str) -> dict[str, Any]:
    """What the AOT tool says of one slice."""
    path = Path(_RESULTS.value) / f"{name.replace(':', '_')}.json"
    if _FRESH.value or not path.exists():
        images = IMAGES_PER_CHIP * chips_of(name)
        command = [
            sys.executable, "-m", "swm_jax.tools.aot", "--topology", name,
            "--programs", "train", f"--config.data.images={images}",
            "--json", str(path),
        ]  # fmt: skip
        print(" ".join(command[1:]), flush=True)
        if subprocess.run(command).returncode not in (0, 3):
            sys.exit(f"error: {name} could not be compiled, see above")
    return json.loads(path.read_text())


def chips_of(name: str) -> int:
    """Chips of a slice's name."""
    count = 1
    for n in parse_slice(name)[1]:
        count *= n
    return count


def table(reports: list[dict[str, Any]]) -> str:
    """Markdown; weak scaling is against the smallest slice of the same chip."""
    lines = [
        "| slice | chips | mesh | images | GB per chip, of | ms, best to worst "
        "| MFU | labels/s | weak scaling | network limited by | chip hours |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for report in reports:
        kind = report["topology"].partition(":")[0]
        same = [r for r in reports if r["topology"].startswith(kind + ":")]
        base = min(same, key=lambda r: r["chips"])
        lines.append(_row(report, base))
    jax_version = reports[0]["jax"]
    return "\n".join([*lines, "", f"jax {jax_version}, {libtpu_version()}."])


def libtpu_version() -> str:
    """The release that the tool asks for."""
    from swm_jax.tools.topology import LIBTPU

    return LIBTPU.replace("==", " ")


def _row(report: dict[str, Any], base: dict[str, Any]) -> str:
    train = report["programs"][0]
    mesh = " x ".join(f"{name} {n}" for name, n in report["mesh"].items() if n > 1)
    gb = f"{train['needed'] / 1e9:.1f} of {train['available'] / 1e9:.0f}"
    head = [report["topology"], report["chips"], mesh, train["work"]["images"], gb]
    if not report["fits"]:
        return "| " + " | ".join(map(str, [*head, "does not fit", *[""] * 5])) + " |"
    time, labels = train["time"], train["work"]["labels"]
    best, worst = time["best"], time["worst"]
    scaling = "base"
    if report is not base and base["fits"]:
        shares = scaling_of(base["programs"][0], train)
        scaling = f"{100 * min(shares):.0f} %"
    hours = [
        STEPS * BATCH / train["work"]["images"] * seconds * report["chips"] / 3600
        for seconds in (best, worst)
    ]
    cells = [
        *head,
        f"{1e3 * best:,.0f} to {1e3 * worst:,.0f}",
        f"{100 * time['mfu_worst']:.0f} to {100 * time['mfu_best']:.0f} %",
        f"{labels / worst:,.0f} to {labels / best:,.0f}",
        scaling,
        time["limiting"],
        f"{hours[0]:,.0f} to {hours[1]:,.0f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def scaling_of(small: dict[str, Any], large: dict[str, Any]) -> list[float]:
    """Efficiencies: at best; at worst; and both ways with closed rings as lines.

    The last leaves memory traffic out: for some slices the compiler cuts products into
    pieces beside their collectives, which costs traffic that others do not have.
    """
    pairs = (("time", "best"), ("time", "worst"), ("line_time", "worst"))
    shares = [small[kind][end] / large[kind][end] for kind, end in pairs]
    bare = lambda t: t["compute"] / MATMUL_SHARE + t["network"]
    return [*shares, bare(small["line_time"]) / bare(large["line_time"])]


def write_between(path: Path, text: str) -> None:
    """Replaces what stands between the marks of a document.

    Raises:
      SystemExit: it has no marks.
    """
    whole = path.read_text()
    if BEGIN not in whole or END not in whole:
        sys.exit(f"error: {path} has no lines {BEGIN!r} and {END!r} to write between")
    before, rest = whole.split(BEGIN, 1)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")
    draft.replace(path)


if __name__ == "__main__":
    app.run(main)
