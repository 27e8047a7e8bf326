"""Trains the experiment of a config file.

    python -m swm_jax.train --config experiments/board_tiny.py:pretrain --workdir runs/a
    python -m swm_jax.train --config experiments/board_tiny.py --workdir runs/b \\
        --config.init_from=runs/a

With an existing `--workdir` it resumes. On several hosts every host runs the same
command; the processes are detected on Cloud TPU, GKE, SLURM, Open MPI or Kubernetes, or
given by `--coordinator_address`, `--num_processes` and `--process_id`. See
docs/training.md.
"""

import os
import sys

import jax
from absl import flags, logging
from etils import epath

from swm_jax.checkpoints import CheckpointError
from swm_jax.cli import (
    define_config,
    define_path,
    error_line,
    no_arguments,
    run_command,
)
from swm_jax.endings import say
from swm_jax.training import Experiment, TrainingError, train
from swm_jax.training.distributed import HostsError, connect, is_first
from swm_jax.training.monitoring.profiling import parse_steps

_CONFIG = define_config(None, "Experiment config file.")
_WORKDIR = define_path(
    "workdir",
    None,
    "Logs, metrics and checkpoints; a folder or gs://bucket/folder.",
    required=True,
)
_CACHE = define_path(
    "compilation_cache_dir",
    None,
    "Compiled programs, for the next start; <workdir>/compilation_cache by default, "
    "'off' for none.",
)
_PROFILE = flags.DEFINE_string(
    "profile_steps", "", "Steps of a profiler trace, for example 100:110."
)
_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, where no scheduler says it."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes in all.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this one is.")
_TIMEOUT = flags.DEFINE_integer(
    "connect_timeout", 300, "Seconds to wait for the other processes."
)
flags.mark_flag_as_required("config")
# At Ctrl-C before the first step.
LOST = "stopped; the same command goes on from the last checkpoint"


def main(argv: list[str]) -> None:
    """Prints a summary of the run, trains, prints the result's folder."""
    no_arguments(argv)
    # Orbax logs every file, and tracebacks of errors that it also raises.
    logging.set_verbosity(logging.FATAL)
    workdir = _WORKDIR.value
    with error_line(CheckpointError, TrainingError, ValueError, OSError, where=workdir):
        _run(workdir)


def _run(workdir: str) -> None:
    try:
        config = Experiment.parse(_CONFIG.value)
        profile_steps = parse_steps(_PROFILE.value)
        # Before anything touches a device.
        connect(_ADDRESS.value, _PROCESSES.value, _PROCESS.value, _TIMEOUT.value)
        keep_compiled(_CACHE.value, workdir)
        if is_first():
            hosts = jax.process_count()
            say(
                f"training {config.name} ({config.stage}): {config.model.variant}, "
                f"layout {config.model.layout}, {config.steps} steps of "
                f"{config.data.images} images on {jax.device_count()} "
                f"{jax.devices()[0].platform} device(s)"
                + (f" of {hosts} processes" if hosts > 1 else "")
            )
        result = train(config, workdir, profile_steps)
    except HostsError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        # At a normal exit jax would wait for the processes that are missing.
        os._exit(1)
    if is_first():
        for name in ("accuracy", "object_error_mm"):  # whichever the stage measures
            if f"validation/{name}" in result:
                say(f"held-out {name} {result[f'validation/{name}']:.3f}")
        say(f"checkpoints and metrics are in {workdir}")


def keep_compiled(folder: str | None, workdir: str) -> None:
    """Enables JAX's persistent compilation cache.

    Args:
      folder: cache folder; None for JAX_COMPILATION_CACHE_DIR or the run's own, "off"
        for none.
      workdir: of the run.
    """
    if folder == "off" or (
        folder is None and "JAX_COMPILATION_CACHE_DIR" in os.environ
    ):
        return
    folder = folder or os.fspath(epath.Path(workdir) / "compilation_cache")
    jax.config.update("jax_compilation_cache_dir", folder)


if __name__ == "__main__":
    run_command(main, stopped=LOST)
