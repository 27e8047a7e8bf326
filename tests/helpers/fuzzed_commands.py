"""Command lines that no one wrote, run in this process, and what may come of them.

A case is a command, its cheapest valid arguments, and one of them replaced by a value
that is empty, huge, negative, of another type or of another alphabet. The work itself
(training, simulating, copying) is left out: what is looked at comes before it. The only
outcomes are success and one line, `error: ...`, with the command's exit status; after a
mistake the output is as it was.
"""

import contextlib
import dataclasses
import functools
import io
import os
import runpy
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from absl import flags

from data_pipelines.describe import summary
from data_pipelines.generate import shards
from data_pipelines.label import store
from data_pipelines.saqa import sampler
from swm_jax.checkpoints import convert
from swm_jax.eval import sweep
from swm_jax.training import loop

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds for a case

VALUES = (
    "", " ", "0", "-1", "1", "2", "3", "17", "-999999999999999999999", "9" * 30,
    "1e400", "1e-400", "nan", "inf", "-inf", "1.5", "0x10", "1_000", "\uff11\uff12",
    "abc", "\u00e9\u2713\u96ea", "\u202e", "\U0001f916", "a" * 5000, "None", "[]", "{}",
    "()", "(1, 2)", "[1", "'", '"', "\\", "%s", "{question}", "{", "true", "False",
    "-", "--", "=", "a=b", ",", ",,", "1,2", "1,abc", "1:2", "2:1", ":", "1:", ":1",
    "\n", "a\nb", "\t", "~", "*", "?", "/dev/null", "/dev/null/x", "/proc/nowhere",
    "nowhere/at/all", "a.png", "a.html", "a.npz", "\udcff", "x" * 300 + "/y",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      module: as of `python -m`.
      base: valid arguments; "{data}", "{checkpoint}", "{questions}" and "{out}" are
        folders and a file of the test.
      status: exit status of mistakes.
      others: further ones that are documented.
      fields: whether `--config.FIELD` is varied too.
    """

    module: str
    base: tuple[str, ...]
    status: int = 1
    others: tuple[int, ...] = ()
    fields: bool = False


GENERATE = f"--config={ROOT}/experiments/generate_board.py:debug"
TRAIN = f"--config={ROOT}/experiments/board_tiny.py:pretrain_debug"
COMMANDS = (
    Command("swm_jax.train", (TRAIN, "--workdir={out}"), fields=True),
    Command("swm_jax.eval", ("--output={out}", "--world_models=simulator"), status=2),
    Command("swm_jax.convert", ("{checkpoint}", "{out}")),
    Command("swm_jax.tools.aot", (), status=2, others=(3,)),
    Command(
        "data_pipelines.generate",
        (GENERATE, "--config.backend=mujoco", "--output={out}"),
        fields=True,
    ),
    Command(
        "data_pipelines.generate_ogbench",
        (f"--config={ROOT}/experiments/generate_ogbench.py", "--output={out}"),
        fields=True,
    ),
    Command("data_pipelines.convert", ("{data}", "{out}")),
    Command("data_pipelines.describe", ("{data}",)),
    Command(
        "data_pipelines.label",
        ("{data}", "{out}", "--questions={questions}", "--labeller=predicates"),
    ),
    Command("data_pipelines.agreement", ("{data}", "--labeller=predicates")),
    Command("data_pipelines.train_tokenizer", ("--model_file={out}",)),
)


class Slow(BaseException):
    """A case that took longer than the patience."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
      status: exit status.
      out, error: what it printed.
      trace: of an exception that left it, or "".
    """

    status: int
    out: str
    error: str
    trace: str

    def complaint(self, command: Command) -> str:
        """What is wrong with the outcome; "" for what may be."""
        if self.trace:
            return self.trace
        lines = self.error.splitlines()
        if self.status == 0 or self.status in command.others:
            return "" if self.out.strip() else "said nothing"
        if self.status != command.status:
            return f"exit status {self.status}, expected {command.status}"
        told = [line for line in lines if line.startswith("error: ")]
        rest = [line for line in lines if not line.startswith(("error: ", "warning: "))]
        if len(told) != 1 or rest:
            return f"expected one line, got {self.error!r}"
        return "" if len(told[0]) > len("error: ") else "an empty error"


def run(command: Command, arguments: Sequence[str]) -> Outcome:
    """Runs a command in this process, without its work."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    error = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    status, trace = 0, ""
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGALRM)]
    signal.signal(signal.SIGALRM, _slow)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
            mock.patch.object(sys, "argv", [command.module, *arguments]),
            mock.patch.object(os, "_exit", sys.exit),
            _own_flags(),
            _without_work(),
        ):
            runpy.run_module(command.module, run_name="__main__", alter_sys=False)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            error.write(f"{end.code}\n")
    except Slow:
        trace = f"still running after {PATIENCE} s"
    except BaseException:
        trace = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGINT, signal.SIGALRM), handlers):
            signal.signal(number, handler)
    texts = []
    for stream in (out, error):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(errors="replace"))
    return Outcome(status, *texts, trace)


def _slow(*_: Any) -> None:
    raise Slow


_TABLES = (
    "__flags",
    "__flags_by_module",
    "__flags_by_module_id",
    "__key_flags_by_module",
)


@contextlib.contextmanager
def _own_flags() -> Iterator[None]:
    """The flags of one command, which come and go with it; absl's own stay."""
    known = flags.FLAGS
    before = {
        name: {
            key: list(value) if isinstance(value, list) else value
            for key, value in vars(known)[name].items()
        }
        for name in _TABLES
    }
    for name in set(known) - set(_of_absl()):
        delattr(known, name)
    try:
        yield
    finally:
        for name, table in before.items():
            vars(known)[name].clear()
            vars(known)[name].update(table)


def _of_absl() -> Iterator[str]:
    for module, found in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("absl"):
            for flag in found:
                yield flag.name
                if flag.short_name:
                    yield flag.short_name


@contextlib.contextmanager
def _without_work() -> Iterator[None]:
    """Replaces what commands are there for by nothing."""
    with contextlib.ExitStack() as stack:
        for place, name, stub in (
            (loop, "_Run", _NoRun),
            (sweep, "_evaluate", lambda config, folder, *rest: print(repr(folder))),
            (shards, "_make_shards", lambda *a: None),
            (shards.folder, "write_info", lambda *a: None),
            (store, "label_episodes", lambda episodes, *a: (episodes, 0)),
            (sampler, "SaqaSampler", _nothing_more),
            (summary, "report", lambda *a: ("a summary", None)),
            (convert, "convert", lambda source, destination, *a: destination),
        ):
            stack.enter_context(mock.patch.object(place, name, stub))
        yield


def _nothing_more(*_: Any) -> None:
    print("from here on it works")
    sys.exit(0)


class _NoRun:
    """A run that ends before its first step."""

    result: Mapping[str, float] = {}

    def __init__(self, training, trainable, *rest):
        loop.build(training, trainable, loop.make_mesh(vars(training.mesh)))

    def begin(self, *_):
        pass

    steps = close = begin


def flags_of(command: Command) -> list[str]:
    """Names of the flags of a command, and of the fields of its config."""
    seen: list[str] = []

    def note(main: Callable, **_: Any) -> None:
        seen.extend(set(flags.FLAGS) - set(_of_absl()))

    with _own_flags(), mock.patch("swm_jax.cli.run_command", note):
        runpy.run_module(command.module, run_name="__main__", alter_sys=False)
    return sorted(seen) + (list(_fields(command)) if command.fields else [])


def _fields(command: Command) -> Iterator[str]:
    path, _, argument = command.base[0].partition("=")[2].partition(":")
    module = runpy.run_path(path)
    config = module["get_config"](*([argument] if argument else []))
    stack = [("config", config)]
    while stack:
        name, value = stack.pop()
        if hasattr(value, "items"):
            stack.extend((f"{name}.{key}", value[key]) for key in value)
        else:
            yield name


@dataclasses.dataclass(frozen=True)
class Case:
    """A command line: the base of a command with one thing that is different."""

    command: Command
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        short = [a if len(a) < 80 else f"{a[:60]}.. ({len(a)})" for a in self.arguments]
        return f"python -m {self.command.module} {' '.join(map(repr, short))}"


def every_case(places: Mapping[str, str]) -> list[Case]:
    """Every value for every flag and argument of every command.

    Args:
      places: what stands for "{data}", "{checkpoint}", "{questions}" and "{out}".
    """
    found = []
    for command in COMMANDS:
        base = [argument.format_map(places) for argument in command.base]
        words = [i for i, text in enumerate(base) if not text.startswith("--")]
        for value in VALUES:
            for name in flags_of_once(command):
                found.append((command, [*base, f"--{name}={value}"]))
            for i in words:
                found.append((command, [*base[:i], value, *base[i + 1 :]]))
            found.append((command, [*base, value]))
        for i in range(len(base)):
            found.append((command, base[:i] + base[i + 1 :]))
        for flag in ("--nonsense=1", "--config.nonsense=1", "--nonsense", "--config="):
            found.append((command, [*base, flag]))
    return [Case(command, tuple(arguments)) for command, arguments in found]


flags_of_once = functools.cache(flags_of)


def check(case: Case, output: str | os.PathLike) -> str:
    """What is wrong with the outcome of a case, or ""."""
    output = Path(output)
    found = run(case.command, case.arguments)
    wrong = found.complaint(case.command)
    if not wrong and found.status and output.exists() and any(output.iterdir()):
        wrong = f"left {sorted(path.name for path in output.iterdir())} behind"
    if output.is_dir():
        shutil.rmtree(output)
    elif output.exists():
        output.unlink()
    return wrong
