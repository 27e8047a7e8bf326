"""Ctrl-C, a second run in the same folder, and output that nobody reads."""

import signal
import subprocess
import sys

from training_runs import ROOT, error_line, logged_steps, outcomes, wait_for_step

from swm_jax.training.distributed import StopSignal
from swm_jax.training.monitoring.metrics import read_metrics


def test_ctrl_c_saves_and_a_second_run_beside_it_is_refused(runs, tmp_path):
    flags = ("--config.steps=100000", "--config.checkpoint_every=100000")
    first = runs.start(tmp_path, *flags)
    wait_for_step(first, 1)
    code, out, error = runs.run(tmp_path, *flags)
    assert code == 1
    assert f"another run is writing to {tmp_path} now" in error_line(error)
    assert "resumed" not in out and " loss " not in out
    first.send_signal(signal.SIGINT)
    ((code, out, error),) = outcomes([first])
    assert code == 0, error
    assert "stopping: this step is finished and saved; Ctrl-C again" in error
    (saved,) = (int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert f"stopped by a signal, step {saved} is saved" in out
    steps = [row["step"] for row in read_metrics(tmp_path)]
    assert steps == sorted(set(steps)) and steps[-1] <= saved


def test_sigint_stops_after_the_step_and_the_next_one_ends_at_once():
    before = signal.getsignal(signal.SIGINT)
    stop = StopSignal()
    assert not stop.reached(1)
    signal.raise_signal(signal.SIGINT)
    assert stop.reached(2)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    stop.close()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_goes_on_when_nobody_reads_what_it_prints(tmp_path):
    command = [sys.executable, "-m", "swm_jax.train", "--workdir", tmp_path]
    command += ["--config", "experiments/board_tiny.py:pretrain_debug"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline().startswith("training")
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(300) == 0, error
    assert "Broken" not in error
    assert logged_steps(tmp_path)[-1] == 6
