"""Test set-up: CPU, one store of compiled programs, few of them in memory.

Compilation is most of what the tests cost. Programs are compiled without optimisation
and with LLVM code for few larger modules (a third of the time, and of the memory maps),
and once: all workers of a test session, and the processes that its tests start, share
one persistent cache, which is new for each session.
"""

import atexit
import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if "fusion_emitters" not in os.environ.get("XLA_FLAGS", ""):  # workers inherit them
    os.environ["XLA_FLAGS"] = (
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
        + os.environ.get("XLA_FLAGS", "")
    )
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers inherit the folder
    _folder = tempfile.mkdtemp(prefix="swm_jax_compiled_")
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import checked_annotations  # noqa: F401  (before the modules whose calls it checks)
import hypothesis
import jax
import pytest
from training_runs import Runs

import swm_jax  # noqa: F401  (sets NPROC before jax starts)

# A process has at most 65530 memory maps (vm.max_map_count of Linux). A replan that is
# compiled holds 130 of them, with XLA's defaults 420, so a worker that keeps all of its
# programs dies inside LLVM, with a segmentation fault.
MOST_MAPS = 20_000
MAPS = Path("/proc/self/maps")

# What JAX traces lives long: by default the collector walks it again and again, a
# twentieth of the time.
gc.set_threshold(100_000, 50, 100)

# No deadline: the first example compiles.
hypothesis.settings.register_profile("swm", deadline=None, max_examples=25)
hypothesis.settings.load_profile("swm")


@pytest.fixture(scope="module", autouse=True)
def few_compiled_programs() -> Iterator[None]:
    """Frees what earlier modules compiled before memory maps run out."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def optimised() -> Iterator[None]:
    """Compiles as users do, from here to the end of a module.

    For bits of two programs that are equal only where both are optimised.
    """
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture(scope="session")
def runs() -> Iterator[Runs]:
    """Starts training runs, and ends those that a test has left running."""
    with contextlib.closing(Runs()) as runs:
        yield runs


@pytest.fixture(scope="session")
def undisturbed(runs, tmp_path_factory):
    """The folder of a run of six steps that nothing befell."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    code, out, error = runs.run(workdir)
    assert code == 0, error
    assert "checkpoints and metrics are in" in out
    return workdir
