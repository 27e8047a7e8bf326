"""Many processes: one run, whoever they are and however many go on with it."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from training_runs import error_line, free_port, logged_steps, outcomes, wait_until

from data_pipelines.batches.pretraining import make_sampler
from experiments import board_tiny
from swm_jax.models import Tokenizer
from swm_jax.training import Experiment
from swm_jax.training.distributed import HostsError, connect, detect_cluster
from swm_jax.training.monitoring.metrics import read_metrics


def holds_what_was_saved(workdir, step):
    """Sums over stored bits, in numpy, are those of the processes' live arrays.

    Every resume checks the same of what it has read.
    """
    folder = workdir / "checkpoints" / str(step)
    with ocp.PyTreeCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(folder / "params").item_metadata.tree
        whole = ocp.RestoreArgs(restore_type=np.ndarray)
        args = jax.tree.map(lambda _: whole, shapes)
        tree = checkpointer.restore(folder / "params", restore_args=args)
    total = 0
    for leaf in jax.tree.leaves(tree):
        words = np.asarray(leaf, np.float32).reshape(-1).view(np.uint32)
        place = np.arange(words.size, dtype=np.uint32)
        odd = place * np.uint32(2_654_435_761) | np.uint32(1)
        total = (total * 31 + int((words * odd).sum(dtype=np.uint32))) % 2**32
    metadata = json.loads((folder / "metadata" / "metadata").read_text())
    assert metadata["sums"]["params"] == total


def losses(workdir):
    return {row["step"]: row["loss"] for row in read_metrics(workdir) if "loss" in row}


def saved_steps(workdir):
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return [int(name) for name in names if name.isdigit()]


def test_two_processes_stop_together_and_one_goes_on(runs, undisturbed, tmp_path):
    """SIGTERM to one of two processes: both save the same step, and one resumes it."""
    flags = ("--config.steps=100000", "--config.checkpoint_every=100000")
    two = runs.start_processes(2, tmp_path, *flags, "--config.validate_every=100000")
    wait_until(lambda: len(logged_steps(tmp_path)) >= 4, *two)
    two[1].terminate()
    (first, second) = outcomes(two)
    assert first[0] == 0 and second[0] == 0, first[2] + second[2]
    assert "of 2 processes" in first[1] and "step" not in second[1]
    (step,) = (int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert f"stopped by a signal, step {step} is saved" in first[1]
    expected = losses(undisturbed)
    for done, loss in losses(tmp_path).items():
        if done in expected:
            np.testing.assert_allclose(loss, expected[done], rtol=2e-4)
    assert logged_steps(tmp_path) == list(range(1, step + 1))
    holds_what_was_saved(tmp_path, step)
    code, out, error = runs.run(tmp_path, f"--config.steps={step + 1}")
    assert code == 0 and f"at step {step}" in out, error
    assert logged_steps(tmp_path) == list(range(1, step + 2))
    data = json.loads((tmp_path / f"checkpoints/{step + 1}/data/metadata").read_text())
    assert data["step"] == step + 1


@pytest.mark.faults
def test_a_checkpoint_of_four_processes_is_resumed_by_two_and_by_one(
    runs, undisturbed, tmp_path
):
    expected, four = losses(undisturbed), tmp_path / "four"
    mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=2")
    short = ("--config.steps=3", "--config.validate_every=3")
    for code, _, error in outcomes(runs.start_processes(4, four, *short, *mesh)):
        assert code == 0, error
    holds_what_was_saved(four, 3)
    for count in (2, 1):
        workdir = tmp_path / str(count)
        shutil.copytree(four, workdir)
        ended = outcomes(runs.start_processes(count, workdir))
        for code, _, error in ended:
            assert code == 0, error
        assert "at step 3" in ended[0][1]
        got = losses(workdir)
        assert list(got) == [1, 2, 3, 4, 5, 6]
        for step, loss in got.items():
            np.testing.assert_allclose(loss, expected[step], rtol=1e-3)
        data = json.loads((workdir / "checkpoints/6/data/metadata").read_text())
        assert data["step"] == 6


@pytest.mark.faults
def test_when_one_process_is_killed_the_other_ends_and_both_resume(runs, tmp_path):
    flags = ("--config.steps=100000", "--config.checkpoint_every=2")
    two = runs.start_processes(2, tmp_path, *flags, "--config.validate_every=100000")
    wait_until(lambda: saved_steps(tmp_path), *two)
    two[1].kill()
    (first, _) = outcomes(two)
    assert first[0] != 0
    steps = max(saved_steps(tmp_path)) + 2
    for code, _, error in outcomes(
        runs.start_processes(2, tmp_path, f"--config.steps={steps}")
    ):
        assert code == 0, error
    assert logged_steps(tmp_path) == list(range(1, steps + 1))


@pytest.mark.faults
def test_a_host_builds_its_rows_of_the_same_batch():
    experiment = Experiment.parse(board_tiny.get_config("pretrain_debug"))
    data, model_config = experiment.data, experiment.model.config()
    tokenizer = Tokenizer.load("tiny")
    whole = make_sampler(data, model_config, tokenizer)(3, 5)
    rows = np.array([0, 3])
    part = make_sampler(data, model_config, tokenizer, rows)(3, 5)
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda x: x[rows], whole))
    for (key, expected), got in zip(leaves, jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(got, expected, err_msg=str(key))


def test_schedulers_are_recognised_by_what_they_leave_in_the_environment():
    assert detect_cluster({}) is None
    assert detect_cluster({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    assert detect_cluster({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}) == "SLURM"
    assert detect_cluster({"TPU_ML_PLATFORM": "JAX"}) == "Cloud TPU"
    assert detect_cluster({"OMPI_COMM_WORLD_SIZE": "8"}) == "Open MPI"
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert detect_cluster(pod) is None  # a pod alone is a host alone
    assert detect_cluster({**pod, "JOB_COMPLETION_INDEX": "0"}) == "Kubernetes"
    shell = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}
    assert detect_cluster(shell) is None  # one of salloc, which is a task by itself
    assert detect_cluster({**shell, "SLURM_STEP_NUM_TASKS": "4"}) == "SLURM"


OF_MANY = {
    "a batch script": {
        "SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4",
    },
    "a pod of an indexed job": {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0",
    },
    "mpirun": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
}  # fmt: skip


@pytest.fixture
def never_joined(monkeypatch):
    joined = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda **given: joined.append(given)
    )
    for variable in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"JAX_{variable}", raising=False)
    yield
    assert not joined


@pytest.mark.parametrize("where", OF_MANY)
def test_one_process_by_its_number_is_alone(where, never_joined, monkeypatch):
    for name, value in OF_MANY[where].items():
        monkeypatch.setenv(name, value)
    connect(num_processes=1)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    connect()


def test_a_task_that_srun_has_not_started_says_so(never_joined, monkeypatch):
    for name, value in OF_MANY["a batch script"].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HostsError, match=r"SLURM has 4 tasks.* srun .*=1"):
        connect()


@pytest.mark.parametrize(
    "given, match",
    [
        (("node", 2, 0), "is 'node', expected host:port"),
        (("node:1", 2, 2), "--process_id is 2, expected 0 to 1 of 2"),
        (("node:1", 0, 0), "--num_processes is 0"),
        (("node:1", 2, None), "--process_id is missing too .or JAX_PROCESS_ID"),
    ],
)
def test_an_address_that_cannot_be_is_refused_in_one_line(given, match):
    with pytest.raises(HostsError, match=match):
        connect(*given)


def test_processes_that_never_come_are_waited_for_and_named(runs, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    code, _, error = runs.run(
        tmp_path,
        f"--coordinator_address={address}",
        "--num_processes=2",
        "--process_id=1",
        "--connect_timeout=2",
    )
    assert code == 1
    said = f"process 1 of 2 could not join the others at {address} within 2 s"
    assert said in error_line(error)


@pytest.mark.faults
def test_a_save_that_fails_on_one_of_two_processes_fails_for_both_and_is_done_again(
    runs, tmp_path
):
    flags = ("--config.steps=1", "--config.save_timeout=20", "--num_processes=2")
    flags += (f"--coordinator_address=127.0.0.1:{free_port()}",)
    whole = runs.start(tmp_path, *flags, "--process_id=0")
    starved = runs.start(tmp_path, *flags, "--process_id=1", starved=True)
    (first, second) = outcomes([whole, starved])
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "step 1 could not be saved" in first[2] and "config.save_timeout" in first[2]
    assert "step 1 could not be saved" in second[2] and "File too large" in second[2]
    assert saved_steps(tmp_path) == [1]
    holds_what_was_saved(tmp_path, 1)
