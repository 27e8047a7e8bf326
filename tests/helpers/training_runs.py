"""Starts `swm_jax.train` as a user does, in processes of their own, for tests."""

import contextlib
import os
import random
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from swm_jax.training.monitoring.metrics import read_metrics

ROOT = Path(__file__).parents[2]
PATIENCE = 600  # seconds; reached only when something hangs


class Run(subprocess.Popen):
    """A process whose output goes to files: nobody need read it for it to go on."""

    def __init__(self, command: Sequence[str], **options):
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        super().__init__(command, stdout=self._out, stderr=self._err, **options)

    def printed(self) -> str:
        """Its stdout so far."""
        return _content(self._out)

    def complained(self) -> str:
        """Its stderr so far."""
        return _content(self._err)


def _content(file) -> str:
    # By position: the process writes where the shared file offset is.
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


class Runs:
    """Starts runs; they have the compilation cache of the test session."""

    def __init__(self):
        self._started = []

    def start(
        self,
        workdir,
        *flags: str,
        arg: str = "pretrain_debug",
        poison: str = "",
        pause: float = 0.0,
        starved: bool = False,
        largest_file: int | None = None,
    ) -> Run:
        """A run in the background.

        Args:
          workdir: of the run.
          flags: beside workdir and config.
          arg: variant of the config.
          poison: steps whose batches give no finite gradient, as "2,5".
          pause: seconds before every step.
          starved: no room for a checkpoint, until a save has failed.
          largest_file: bytes beyond which no file can grow, as on a full disk.
        """
        program = ["-m", "swm_jax.train"]
        if poison:
            program = ["-m", "tests.helpers.poisoned_training", poison]
        if pause:
            program = ["-m", "tests.helpers.paced_training", str(pause)]
        if starved:
            program = ["-m", "tests.helpers.starved_training"]
        command = [sys.executable, *program, "--workdir", str(workdir)]
        command += ["--config", f"experiments/board_tiny.py:{arg}"]
        # By the flag alone, so that a test's own flag can say "off".
        environment = dict(os.environ)
        cache = environment.pop("JAX_COMPILATION_CACHE_DIR")
        command += ["--compilation_cache_dir", cache, *flags]

        def limit():
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard))

        run = Run(
            command,
            cwd=ROOT,
            env=environment,
            preexec_fn=limit if largest_file else None,
        )
        self._started.append(run)
        return run

    def run(self, workdir, *flags: str, **options) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a run to its end."""
        (outcome,) = outcomes([self.start(workdir, *flags, **options)])
        return outcome

    def start_processes(self, count: int, workdir, *flags: str, **options) -> list[Run]:
        """One run of `count` processes on this machine, in the background."""
        address = f"127.0.0.1:{free_port()}"
        return [
            self.start(
                workdir,
                f"--coordinator_address={address}",
                f"--num_processes={count}",
                f"--process_id={index}",
                *flags,
                **options,
            )
            for index in range(count)
        ]

    def close(self) -> None:
        """Ends what a test that failed has left running."""
        for run in self._started:
            run.kill()
            run.wait()


def outcomes(runs: Sequence[Run]) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each, once all have ended."""
    deadline = time.monotonic() + PATIENCE
    for run in runs:
        try:
            run.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            _give_up(runs, f"still running after {PATIENCE} s")
    return [(run.returncode, run.printed(), run.complained()) for run in runs]


def wait_for_step(run: Run, target: int) -> None:
    """Returns when a run has printed a step of at least `target`."""
    steps = lambda: re.findall(r"^step (\d+)/\d+ loss", run.printed(), re.MULTILINE)
    wait_until(lambda: any(int(step) >= target for step in steps()), run)


def wait_until(condition: Callable[[], bool], *runs: Run, every: float = 0.02) -> None:
    """Returns when the condition holds.

    Fails, and kills the runs, when one ends before or the patience does.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        ended = any(run.poll() is not None for run in runs)
        if ended and condition():  # it may have come to hold just before the end
            return
        if ended:
            _give_up(runs, "ended too early")
        if time.monotonic() > deadline:
            _give_up(runs, f"waited {PATIENCE} s in vain")
        time.sleep(every)


def _give_up(runs: Sequence[Run], why: str) -> NoReturn:
    for run in runs:
        run.kill()
    told = "\n".join(run.printed()[-1000:] + run.complained()[-3000:] for run in runs)
    raise AssertionError(f"{why}:\n{told}")


def error_line(stderr: str) -> str:
    """What a run ended with; libraries may print behind it."""
    (line,) = (line for line in stderr.splitlines() if line.startswith("error: "))
    return line


def free_port() -> int:
    """A port that nobody listens on.

    Below those that the system hands out, so that nothing is given it by chance before
    the run listens there, seconds later.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def logged_steps(workdir) -> list[int]:
    """Steps of the metrics log, while it may be written."""
    with contextlib.suppress(OSError):
        return [int(row["step"]) for row in read_metrics(workdir)]
    return []
