"""Multi-host training: initialisation, cluster detection, synchronised stop.

Every process runs the same loop over the same steps on its part of the global arrays.
Process 0 writes logs and prints; checkpoints are written by all.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from swm_jax.choices import first_line
from swm_jax.endings import end_at_next_interrupt

_VARIABLES = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
_GRACE = 60  # seconds
ALONE = "--num_processes=1"
STOPPING = "\nstopping: this step is finished and saved; Ctrl-C again ends at once\n"


class HostsError(RuntimeError):
    """Failed initialisation of the processes of a run; the message has a remedy."""


def detect_cluster(environment: Mapping[str, str]) -> str | None:
    """The scheduler from which jax can detect the processes; None on a single host.

    Args:
      environment: `os.environ` after `import jax`, which sets TPU_ML_PLATFORM on Cloud
        TPU.
    """

    def many(*names: str) -> bool:
        """Whether the first of these variables that is set says more than one."""
        said = next((environment[name] for name in names if name in environment), "1")
        return said.isdigit() and int(said) > 1

    if environment.get("TPU_ML_PLATFORM") == "JAX":  # set if there are chips and libtpu
        return "Cloud TPU"
    # Those of the step, if there is one: that of a shell has a single task.
    tasks = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if "SLURM_PROCID" in environment and many(*tasks):
        return "SLURM"
    if many("OMPI_COMM_WORLD_SIZE"):
        return "Open MPI"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment):
        return "Kubernetes"
    return None


def connect(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
) -> None:
    """Initialises `jax.distributed`; a no-op on a single host.

    Call before any use of a device. Missing arguments are read from
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, then detected by jax
    on Cloud TPU, GKE, SLURM, Open MPI or Kubernetes. `num_processes` of 1 is a process
    alone, whatever else is given or detected.

    Args:
      coordinator_address: "host:port" of process 0.
      num_processes: number of processes.
      process_id: unique, 0 to num_processes - 1.
      timeout: seconds to wait for the other processes.

    Raises:
      HostsError: incomplete or invalid arguments, a task of many that `srun` has not
        started, or a timeout.
    """
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    for name, variable in _VARIABLES.items():
        if given[name] is None and os.environ.get(variable):
            given[name] = _read(variable, number=name != "coordinator_address")
    _check(given)
    if given["num_processes"] == 1:
        return
    cluster = detect_cluster(os.environ)
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given) and cluster is None:
        return
    if missing and cluster is None:
        raise HostsError(
            f"to join the other processes --{' and --'.join(missing)} is missing too "
            f"(or {', '.join(_VARIABLES[name] for name in missing)})"
        )
    if cluster == "SLURM" and missing and "SLURM_STEP_NODELIST" not in os.environ:
        raise HostsError(
            f"SLURM has {os.environ['SLURM_NTASKS']} tasks, and this process was not "
            "started by srun, so that it does not know the others: put srun before the "
            f"command, or run alone with {ALONE}"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    who = f"process {given['process_id']} of {given['num_processes']}"
    where = given["coordinator_address"] or f"the address that {cluster} gave"
    reason = _within(
        timeout,
        lambda: jax.distributed.initialize(
            **given, initialization_timeout=timeout + _GRACE
        ),
    )
    if reason:
        raise HostsError(
            f"{who if not missing else 'this process'} could not join the others at "
            f"{where} within {timeout} s: {reason}. Is process 0 running, is its port "
            "open to the others, were all processes started with the same address and "
            "number, each with its own id"
            + (" (by srun)" if cluster == "SLURM" else "")
            + f"? To run alone: {ALONE}"
        )


def _within(timeout: int, work: Callable[[], None]) -> str | None:
    """Runs `work` with a timeout; returns the reason of a failure, or None.

    After its own timeout jax aborts the process with a stack trace; `work` is therefore
    given a longer one (`_GRACE`), and this function returns first.
    """
    failed = []

    def run():
        try:
            work()
        except Exception as error:  # RPC, socket and scheduler errors of many kinds
            failed.append(first_line(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        return "not all processes are there"
    return failed[0] if failed else None


def is_first() -> bool:
    """Whether this process writes logs and prints."""
    return jax.process_index() == 0


class StopSignal:
    """SIGTERM, Ctrl-C or preemption notice, at the same step in all processes.

    On one host a signal sets a flag that the loop polls. On several, jax's preemption
    service catches SIGTERM on any host and chooses a step that no process has passed;
    SIGINT is passed on to it. A second SIGINT ends the process at once.
    """

    def __init__(self):
        self._asked, self._before = False, {}
        if threading.current_thread() is not threading.main_thread():
            return  # Python leaves signals to the main thread
        handlers = {signal.SIGINT: self._interrupted}
        if jax.process_count() == 1:
            handlers[signal.SIGTERM] = self._remember
        for number, handler in handlers.items():
            self._before[number] = signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Whether to save and stop after this step; call at every step."""
        if jax.process_count() == 1:
            return self._asked
        return bool(multihost_utils.reached_preemption_sync_point(step))

    def close(self) -> None:
        """Restores the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        end_at_next_interrupt()
        if jax.process_count() == 1:
            self._asked = True
        else:
            signal.raise_signal(signal.SIGTERM)
        # Not by print, which this signal may have interrupted.
        os.write(sys.stderr.fileno(), STOPPING.encode())


def _read(variable: str, number: bool) -> str | int:
    value = os.environ[variable]
    if not number:
        return value
    try:
        return int(value)
    except ValueError:
        raise HostsError(f"{variable} is {value!r}, expected a number") from None


def _check(given: Mapping[str, Any]) -> None:
    address = given["coordinator_address"]
    if address is not None and not address.rpartition(":")[2].isdigit():
        raise HostsError(f"--coordinator_address is {address!r}, expected host:port")
    count, index = given["num_processes"], given["process_id"]
    if count is not None and count < 1:
        raise HostsError(f"--num_processes is {count}, expected at least 1")
    if count is None or index is None:
        return
    if not 0 <= index < count:
        raise HostsError(
            f"--process_id is {index}, expected 0 to {count - 1} of {count} processes"
        )
