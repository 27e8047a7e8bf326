"""Test set-up: CPU, and no deadline for property tests (the first call compiles)."""

import contextlib
import os
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import pytest
from training_runs import Runs, compiled_folder

import swm_jax  # noqa: F401  (sets NPROC before jax starts)

hypothesis.settings.register_profile("swm", deadline=None, max_examples=25)
hypothesis.settings.load_profile("swm")


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Iterator[Runs]:
    """Starts training runs; they share a compilation cache."""
    with contextlib.closing(Runs(compiled_folder(tmp_path_factory))) as runs:
        yield runs


@pytest.fixture(scope="session")
def undisturbed(runs, tmp_path_factory):
    """The folder of a run of six steps that nothing befell."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    code, out, error = runs.run(workdir)
    assert code == 0, error
    assert "checkpoints and metrics are in" in out
    return workdir
