"""Starts `swm_jax.train` as a user does, in processes of their own, for tests."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from swm_jax.training.metrics import read_metrics

ROOT = Path(__file__).parents[1]
PATIENCE = 600  # seconds; reached only when something hangs


def compiled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One compilation cache for all runs of a test session, and for all its workers."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"


class Runs:
    """Starts runs that share one compilation cache.

    Optimisation of compiled programs is off: these tests compile far longer than they
    compute, and compare only runs with one another.
    """

    def __init__(self, cache: Path):
        self._cache = cache

    def start(
        self,
        workdir,
        *flags: str,
        arg: str = "pretrain_debug",
        poison: str = "",
        largest_file: int | None = None,
    ) -> subprocess.Popen:
        """A run in the background.

        Args:
          workdir: of the run.
          flags: beside workdir and config.
          arg: variant of the config.
          poison: steps whose batches give no finite gradient, as "2,5".
          largest_file: bytes beyond which no file can grow, as on a full disk.
        """
        program = ["-m", "swm_jax.train"]
        if poison:
            program = ["-m", "tests.poisoned_training", poison]
        command = [sys.executable, *program, "--workdir", str(workdir)]
        command += ["--config", f"experiments/board_tiny.py:{arg}"]
        command += ["--compilation_cache_dir", str(self._cache), *flags]
        environment = {
            **os.environ,
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        }

        def limit():
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard))

        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            preexec_fn=limit if largest_file else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, workdir, *flags: str, **options) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a run to its end."""
        process = self.start(workdir, *flags, **options)
        return (*_outcome(process),)

    def start_processes(
        self, count: int, workdir, *flags: str, **options
    ) -> list[subprocess.Popen]:
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


def outcomes(processes: Sequence[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each, once all have ended."""
    try:
        return [_outcome(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def _outcome(process: subprocess.Popen) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=PATIENCE)
    return process.returncode, out, error


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def logged_steps(workdir) -> list[int]:
    """Steps of the metrics log, while it may be written."""
    with contextlib.suppress(OSError):
        return [int(row["step"]) for row in read_metrics(workdir)]
    return []


def wait_until(
    condition: Callable[[], bool], *processes: subprocess.Popen, every: float = 0.02
) -> None:
    """Returns when the condition holds; fails when a process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        for process in processes:
            if process.poll() is not None:
                raise AssertionError(f"ended too early:\n{process.communicate()[1]}")
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(every)
