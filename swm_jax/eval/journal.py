"""Journal of a running evaluation, and results.json at its end.

The journal (`journal.jsonl`) is a header with the settings and one line per finished
part or episode, flushed at once, so an interrupted sweep loses only the episodes in
progress. `results.json` is made from it and written atomically.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import statistics
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from swm_jax import conditions
from swm_jax.eval.config import EvalConfig, UserError
from swm_jax.eval.statistics import wilson_interval
from swm_jax.files import write_whole

SCHEMA = 1
PACKAGES = (*conditions.PACKAGES, "flax", "orbax-checkpoint")
PLANNING_KEYS = {
    "task": str,
    "method": str,
    "world_model": str,
    "successes": int,
    "episodes": int,
    "rate": float,
    "interval95": list,
    "seconds_per_replan": float,
    "candidates_per_replan": int,
}


@dataclasses.dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
      task, method, world_model, seed: its place in the sweep.
      success: whether the task was solved within the limit of steps.
      steps: control steps until success, or the limit.
      seconds_per_replan: wall time of one planning call divided by the number of
        scenes in it, without compilation.
      candidates_per_replan: action chunks evaluated in it.
      detail: names of the task's blocks, for the report.
    """

    task: str
    method: str
    world_model: str
    seed: int
    success: bool
    steps: int
    seconds_per_replan: float
    candidates_per_replan: int
    detail: str = ""

    @property
    def cell(self) -> tuple[str, str, str]:
        return self.task, self.method, self.world_model


def summarise(episodes: list[Episode], order: tuple = ()) -> list[dict]:
    """Rows of the planning table, in the order of `order`, then of appearance."""
    cells: dict[tuple, list[Episode]] = {cell: [] for cell in order}
    for episode in episodes:
        cells.setdefault(episode.cell, []).append(episode)
    rows = []
    for (task, method, world_model), group in cells.items():
        if not group:
            continue
        wins = [e.steps for e in group if e.success]
        count = len(group)
        rows.append(
            {
                "task": task,
                "method": method,
                "world_model": world_model,
                "successes": len(wins),
                "episodes": count,
                "rate": len(wins) / count,
                "interval95": list(wilson_interval(len(wins), count)),
                "seconds_per_replan": statistics.median(
                    e.seconds_per_replan for e in group
                ),
                "candidates_per_replan": group[0].candidates_per_replan,
                "mean_steps_to_success": sum(wins) / len(wins) if wins else None,
                "seeds": sorted(e.seed for e in group),
            }
        )
    return rows


def check(results: dict) -> dict:
    """Returns `results` if all required fields exist; else raises a ValueError."""
    for key in (
        "qa",
        "planning",
        "action_sensitivity",
        "config",
        "versions",
        "machine",
    ):
        if key not in results:
            raise ValueError(f"results lack {key!r}")
    if results["qa"] is not None:
        for key in ("balanced_accuracy", "per_type", "question_horizon_only"):
            if key not in results["qa"]:
                raise ValueError(f"results['qa'] lacks {key!r}")
    for i, row in enumerate(results["planning"]):
        for key, kind in PLANNING_KEYS.items():
            if not isinstance(row.get(key), kind):
                raise ValueError(
                    f"results['planning'][{i}][{key!r}] is {row.get(key)!r}, "
                    f"expected {kind.__name__}"
                )
    return results


def versions() -> dict[str, str]:
    """Versions of this package, Python and all packages that affect results."""
    found = {"swm_jax": __import__("swm_jax").__version__}
    found["python"] = platform.python_version()
    return found | {name: conditions.version_of(name) for name in PACKAGES}


def source_files() -> dict[str, Traversable]:
    """Code and tokenizers of both packages by path, such as "swm_jax/eval/sweep.py".

    Located by the import system, so that it works for an installed package too.
    """
    found = {}

    def visit(folder, name):
        for each in folder.iterdir():
            path = f"{name}/{each.name}"
            if each.is_dir():
                visit(each, path)
            elif each.name.endswith((".py", ".model")):
                found[path] = each

    for package in ("swm_jax", "data_pipelines"):
        visit(resources.files(package), package)
    return dict(sorted(found.items()))


@functools.cache  # files edited later do not change the code that is running
def code_fingerprint() -> str:
    """Hash of all `source_files`.

    Stored in the journal, so that a sweep resumed after an edit is an error: its
    success rates would mix two versions of the code.
    """
    return digest_of(source_files())


def digest_of(files: Mapping[str, Traversable]) -> str:
    """Hash of paths and contents, twelve hex digits."""
    digest = hashlib.sha256()
    for path, file in files.items():
        content = file.read_bytes()
        digest.update(f"{path} {len(content)} ".encode() + content)
    return digest.hexdigest()[:12]


def machine() -> dict:
    """Description of the machine: usable cores, memory, accelerators, date."""
    import jax

    cores = getattr(os, "process_cpu_count", None) or (
        lambda: (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count()
        )
    )
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        memory = float("nan")
    device = jax.devices()[0]
    return {
        "cpu_cores": cores(),
        "memory_gib": round(memory, 1),
        "devices": f"{jax.device_count()} x {device.device_kind}",
        "platform": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def to_json(value: Any) -> Any:
    """JSON value: NaN and infinity become null, tuples lists, arrays lists."""
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if hasattr(value, "tolist"):
        return to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: pathlib.Path, value) -> None:
    """Writes a file of indented, strict JSON (no NaN) atomically."""
    write_whole(path, json.dumps(to_json(value), indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path):
    """Reads a file of `write_json`."""
    return json.loads(path.read_text(encoding="utf-8"))


class Journal:
    """Finished work of one sweep, one JSON line each.

    A journal of the same settings in the folder is resumed; an incomplete last line is
    dropped. A journal of another configuration, or of other `conditions` (versions,
    device, settings of JAX), raises a `UserError`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        config: EvalConfig,
        identity: str = "",
        restart: bool = False,
    ):
        """Opens or starts the journal.

        Args:
          folder: created if missing.
          config: its `settings()` must equal those of an existing journal.
          identity: fingerprint of the parameters, which detects another model at the
            same path; "" without a model.
          restart: start a new journal; an older one is renamed `journal.old.jsonl`.
        """
        self.path = folder / "journal.jsonl"
        header = {
            **to_json(config.settings()),
            "model": identity,
            "code": code_fingerprint(),
            **conditions.conditions(),
            "schema": SCHEMA,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if restart and self.path.exists():
                os.replace(self.path, self.path.with_suffix(".old.jsonl"))
            self.records = self._read() if self.path.exists() else []
            if self.records:
                before = self.records.pop(0)
                header["model"] = header["model"] or before.get("model", "")
                self._compare(before, header)
            lines = [{"kind": "settings", **header}, *self.records]
            write_whole(self.path, "".join(json.dumps(x) + "\n" for x in lines))
        except OSError as error:
            raise UserError(
                f"cannot write to --output {folder}: {error.strerror or error}"
            ) from None

    def _read(self) -> list[dict]:
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                if number == len(lines):
                    break  # incomplete, as the process was killed while writing
                raise UserError(
                    f"{self.path}:{number} is not JSON: the journal is damaged; "
                    "choose another --output, or start over with --restart"
                ) from None
        return records

    def _compare(self, old: dict, new: dict) -> None:
        old = {k: v for k, v in old.items() if k != "kind"}
        changed = [
            f"{k} was {old.get(k)!r}, is {new.get(k)!r}"
            for k in sorted({*old, *new})
            if old.get(k) != new.get(k) and not (k == "model" and not old[k])
        ]
        if changed:
            raise UserError(
                f"--output {self.path.parent} holds a sweep with another "
                f"configuration ({'; '.join(changed)}): choose another --output, or "
                "start over with --restart"
            )

    def append(self, kind: str, value: dict) -> None:
        """Appends one record and syncs it to disk."""
        record = {"kind": kind, **to_json(value)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)

    def find(self, kind: str) -> dict | None:
        """The last record of a kind, without its kind."""
        found = [r for r in self.records if r["kind"] == kind]
        return {k: v for k, v in found[-1].items() if k != "kind"} if found else None

    def episodes(self) -> list[Episode]:
        """Finished episodes; of repeated (task, method, world model, seed) the last."""
        rows = {}
        for record in self.records:
            if record["kind"] == "episode":
                fields = {k: v for k, v in record.items() if k != "kind"}
                episode = Episode(**fields)
                rows[(*episode.cell, episode.seed)] = episode
        return list(rows.values())
