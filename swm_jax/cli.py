"""Shared parts of the commands: flags, `--config`, error line, progress line, tables.

A mistake on the command line ends a command with one line, `error: ...`, and the exit
status that `run_command` is given: 1, or what the command documents.
"""

import contextlib
import functools
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags
from ml_collections import config_flags

from swm_jax.endings import told_endings
from swm_jax.files import user_path

# What Ctrl-C prints in commands that resume.
GOES_ON = "stopped; the same command goes on from here"


def run_command(
    main: Callable[[list[str]], None], status: int = 1, stopped: str = "stopped"
) -> None:
    """Parses the flags and runs a command: `app.run` with one line per mistake.

    Numbers are of 32 bits, whatever JAX_ENABLE_X64 says: the results of a seed are then
    the same everywhere. Ctrl-C and closed pipes end it as `swm_jax.endings` says.

    Args:
      main: of the program's name and the arguments that are no flags; raises
        `app.UsageError` for arguments that it does not take.
      status: exit status of mistakes in flags, config and arguments.
      stopped: what Ctrl-C prints.
    """

    def told(argv: list[str]) -> None:
        if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
            jax.config.update("jax_enable_x64", False)
            warn("JAX_ENABLE_X64 is set; commands compute in 32 bits all the same")
        with error_line(app.UsageError, status=status):
            main(argv)

    # Names that the terminal's encoding lacks are shown by their codes.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with told_endings(stopped):
        app.run(told, flags_parser=functools.partial(_read_flags, status))


def define_config(default: str | None, words: str, status: int = 1) -> flags.FlagHolder:
    """Defines `--config`, a Python file, and `--config.FIELD` for its fields.

    Args:
      default: config file; None makes the flag required.
      words: help text of the flag.
      status: exit status of mistakes in the fields of a default file.
    """
    # ml_collections sets fields of a default file right here.
    with _config_errors(status):
        return config_flags.DEFINE_config_file("config", default, words)


def define_path(
    name: str, default: str | None, words: str, required: bool = False
) -> flags.FlagHolder:
    """`flags.DEFINE_string` for a path, in which `~` is the home folder.

    Shells expand `~` at the beginning of a word only, so not in `--output=~/data`.
    """
    serializer = flags.ArgumentSerializer()
    return flags.DEFINE(
        _PathParser(), name, default, words, serializer=serializer, required=required
    )


class _PathParser(flags.ArgumentParser):
    """Parser of a path."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return os.fspath(user_path(argument)) if argument else argument

    def flag_type(self) -> str:
        return "path"


def _read_flags(status: int, argv: Sequence[str]) -> list[str]:
    with _config_errors(status):
        rest = flags.FLAGS([_config_path(x) for x in argv])
        config = "config" in flags.FLAGS and flags.FLAGS["config"].value
        if config:
            config.keys()  # the file is loaded lazily: force its errors to appear here
        return rest


def _config_path(argument: str) -> str:
    """`--config=~/file.py` with the home folder in place of `~`."""
    name, sign, path = argument.partition("=")
    is_config = name in ("--config", "-config") and path.startswith("~")
    return f"{name}{sign}{os.path.expanduser(path)}" if is_config else argument


def no_arguments(argv: Sequence[str]) -> None:
    """Raises absl's UsageError if there are positional arguments."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; flags start with --")


@contextlib.contextmanager
def _config_errors(status: int) -> Iterator[None]:
    try:
        yield
        return
    except flags.Error as error:
        text = "; ".join(map(_mistake, str(error).splitlines()))
    except AttributeError as error:
        # ml_collections wraps a KeyError whose text suggests the nearest field.
        if not (error.args and isinstance(error.args[0], KeyError)):
            raise
        reason = " ".join(str(error.args[0].args[0]).split())
        text = f"no such field of the config: {reason}"
    except OSError as error:
        text = f"--config: {str(error).strip().splitlines()[-1].strip()}"
    print(f"error: {text}", file=sys.stderr, flush=True)
    sys.exit(status)


def _mistake(text: str) -> str:
    """absl's text about a flag, without words of Python's own parsers."""
    if not (found := re.fullmatch(r"flag --([\w.]+)=(.*?): (.*)", text.strip())):
        return text.strip()
    name, value, reason = found.groups()
    if reason.endswith("must have a value other than None."):
        return f"--{name} is missing"
    if re.match("invalid literal for int|could not convert string to float", reason):
        reason = f"expected {flags.FLAGS[name].parser.syntactic_help}"
    return f"--{name}={value}: {reason}"


@contextlib.contextmanager
def error_line(
    *errors: type[Exception], status: int = 1, where: object = None
) -> Iterator[None]:
    """Ends the program with `error: ...` on stderr instead of a traceback.

    Args:
      *errors: exceptions caused by user input; others keep their traceback.
      status: exit status.
      where: subject of the message for an OSError without a file name.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # `run_command` ends the program
    except errors as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename or where}: {error.strerror}"
        print(f"error: {text}", file=sys.stderr, flush=True)
        sys.exit(status)


def warn(message: str) -> None:
    """Prints `warning: ...` to stderr, one line."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


class Progress:
    """One line of progress: share done, rate, time left.

    On a terminal the line is rewritten. Elsewhere (a log file) a line appears at most
    every `quiet` seconds, and at the end.
    """

    def __init__(self, name: str, total: float, unit: str, quiet: float = 10.0):
        self._name, self._total, self._unit = name, total, unit
        self._began, self._said, self._quiet = time.monotonic(), 0.0, quiet
        self._live = sys.stdout.isatty()

    def __call__(self, done: float, note: str = "") -> None:
        """Reports that `done` of the total are finished."""
        now = time.monotonic()
        last = done >= self._total
        if not self._live and not last and now - self._said < self._quiet:
            return
        self._said = now
        text = self.line(done, now - self._began, note)
        if self._live:
            print(f"\r\x1b[2K{text}", end="\n" if last else "", flush=True)
        else:
            print(text, flush=True)

    def line(self, done: float, seconds: float, note: str = "") -> str:
        """The text: "planning 12/45 episodes, 1.3 s each, 0:41 left  reach swm"."""
        rate = done / max(seconds, 1e-9)
        count = lambda x: f"{x:.1f}" if isinstance(x, float) else f"{x}"
        parts = [f"  {self._name} {count(done)}/{count(self._total)} {self._unit}"]
        if done and seconds > 0.5:
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
        if 0 < done < self._total:
            parts.append(f"{clock((self._total - done) / rate)} left")
        elif done:
            parts.append(f"in {clock(seconds)}")
        return ", ".join(parts) + (f"  {note}" if note else "")


def clock(seconds: float) -> str:
    """A duration as "0:41", or "1:02:03" from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: int = 1) -> str:
    """A text table; columns from index `numeric` on are aligned right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    align = lambda i, cell: (
        cell.rjust(widths[i]) if i >= numeric else cell.ljust(widths[i])
    )
    line = lambda row: "  " + "  ".join(align(i, c) for i, c in enumerate(row)).rstrip()
    rule = "  " + "  ".join("-" * w for w in widths)
    return "\n".join([line(head), rule, *map(line, rows)])
