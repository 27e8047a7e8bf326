"""Faults while a run runs: kill -9, batches that give no number, signals, no room."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from jax._src.array import ArrayImpl
from training_runs import (
    error_line,
    logged_steps,
    outcomes,
    wait_for_step,
    wait_until,
)

from experiments import board_tiny
from swm_jax.training import build, loop, train
from swm_jax.training.monitoring.metrics import read_metrics

SAVED_OFTEN = ("--config.checkpoint_every=1", "--config.keep_checkpoints=9")


def sums(workdir, step):
    """Sums over the bits of the parameters and of the optimizer's state."""
    path = workdir / "checkpoints" / str(step) / "metadata" / "metadata"
    return json.loads(path.read_text())["sums"]


def kill(runs, workdir, flags, target, delay, last):
    """A start that kill -9 ends: so long after its start, or after a step is printed.

    Steps are kept apart by pauses. A machine so busy that it wakes this test late lets
    the run come to its last step all the same; that start is undone and tried again
    with less delay.
    """
    before = workdir.with_name("before")
    workdir.mkdir(exist_ok=True)
    shutil.copytree(workdir, before)
    for attempt in range(8):
        process = runs.start(workdir, *flags, pause=0.1)
        if target is not None:
            wait_for_step(process, target)
        time.sleep(delay / 2**attempt)
        process.kill()
        code, _, error = outcomes([process])[0]
        assert code in (0, -signal.SIGKILL), error
        if code != 0 and not (workdir / "checkpoints" / str(last)).exists():
            break
        shutil.rmtree(workdir)
        shutil.copytree(before, workdir)
    else:
        raise AssertionError("always ended before it could be killed")
    shutil.rmtree(before)


@pytest.mark.parametrize(
    "kills, in_start_up, steps, every",
    [
        pytest.param(3, 0, 6, 1, id="3"),
        pytest.param(20, 4, 80, 3, id="20", marks=pytest.mark.faults),
    ],
)
def test_after_random_kills_the_run_ends_bit_identical(
    kills, in_start_up, steps, every, runs, undisturbed, tmp_path
):
    flags = (f"--config.steps={steps}", f"--config.checkpoint_every={every}")
    flags += ("--config.validate_every=1000",)
    workdir = tmp_path / "killed"
    rng = np.random.default_rng(kills)
    steps_reached = rng.integers(1, steps - steps // 4, kills - in_start_up)
    order = iter(sorted(steps_reached.tolist()))
    for in_loop in rng.permutation([False] * in_start_up + [True] * len(steps_reached)):
        # A step takes milliseconds, a save tenths of a second, a start some seconds.
        target, longest = (next(order), 0.15) if in_loop else (None, 8.0)
        delay = rng.uniform(0.0, longest)
        kill(runs, workdir, flags, target, delay, steps)
    code, out, error = runs.run(workdir, *flags)
    assert code == 0, error
    expected = undisturbed
    if steps != 6:
        expected = tmp_path / "undisturbed"
        assert runs.run(expected, *flags)[0] == 0
    assert sums(workdir, steps) == sums(expected, steps)
    assert logged_steps(workdir) == list(range(1, steps + 1))
    assert "goodput" in out


# Every day test_trainable.py asks the same of a small policy.
@pytest.mark.faults
def test_a_step_that_gives_no_number_is_skipped_or_stops_the_run(runs, tmp_path):
    skip, stop = tmp_path / "skip", tmp_path / "stop"
    once = ("--config.steps=4", "--config.log_every=4", "--config.checkpoint_every=2")
    three = (*SAVED_OFTEN, "--config.steps=3", "--config.on_nan=skip")
    poisoned = runs.start(skip, *three, poison="2")
    stopped = runs.start(stop, *once, poison="3")
    (code, out, error), (stop_code, _, stop_error) = outcomes([poisoned, stopped])
    assert code == 0, error
    # Skipped: the same parameters and optimizer as before, and the next step counts.
    assert sums(skip, 1) == sums(skip, 2) != sums(skip, 3)
    bad = json.loads((skip / "bad_batches" / "step_2.json").read_text())
    assert (bad["seed"], bad["stream_step"], bad["step"]) == (0, 1, 2)
    assert bad["dense_loss"] == "nan" and "skipped step 2" in out
    skipped = [row["skipped_steps"] for row in read_metrics(skip)]
    assert skipped == [0.0, 1.0, 0.0]
    # Stopped: the step is named though the loop looks at step 4 only, nothing after
    # it is saved.
    assert stop_code == 1
    last = error_line(stop_error)
    assert "dense_loss nan at step 3" in last and "bad_batches/step_3.json" in last
    assert "the last good checkpoint is step 2" in last
    assert [p.name for p in (stop / "checkpoints").iterdir()] == ["2"]


@pytest.mark.faults
def test_a_run_without_room_trains_to_its_end_and_says_that_nothing_is_saved(
    runs, tmp_path
):
    full = (*SAVED_OFTEN, "--config.steps=3", "--compilation_cache_dir=off")
    code, out, error = runs.run(tmp_path, *full, largest_file=50_000)
    assert code == 1
    assert "step 3/3" in out and "goodput" in out
    warnings = [line for line in error.splitlines() if line.startswith("warning: step")]
    assert [line.split()[2] for line in warnings] == ["1", "2", "3", "3"]
    last = error_line(error)
    assert "the state of step 3 could not be saved" in last and "File too large" in last
    assert "the last good checkpoint is none" in last
    # Nothing of the writes that were given up with the save.
    assert "Traceback" not in error and "never awaited" not in error
    code, out, error = runs.run(tmp_path, "--config.steps=3")  # there is room again
    assert code == 0 and "resumed" not in out, error
    assert logged_steps(tmp_path) == [1, 2, 3]


@pytest.mark.faults
def test_a_profiler_trace_comes_on_demand(runs, tmp_path):
    endless = ("--config.steps=100000", "--config.checkpoint_every=100000")
    endless += ("--config.validate_every=100000", "--profile_steps=2:4")
    process = runs.start(tmp_path, *endless)
    wait_for_step(process, 6)
    process.send_signal(signal.SIGUSR1)
    traces = lambda: process.printed().count("profiler trace up to step")
    wait_until(lambda: traces() == 2, process)
    process.terminate()
    ((code, _, error),) = outcomes([process])
    assert code == 0, error
    folder = tmp_path / "profile/plugins/profile"
    first, second = sorted(int(p.name.split("_")[-1]) for p in folder.iterdir())
    assert first == 3 and second >= 6
    for trace in folder.iterdir():
        assert len(list(trace.glob("*.xplane.pb"))) == 1


@pytest.mark.faults
def test_the_host_reads_no_result_between_logged_steps(tmp_path, monkeypatch):
    """What a step returns is looked at where something is logged, and nowhere else."""
    results, reads, done = set(), set(), 0
    make_step, make_counter = build.make_train_step, loop.make_counter
    value = ArrayImpl._value.fget

    def watched(make):
        def made(*args, **options):
            call = make(*args, **options)

            def run(*inputs):
                nonlocal done
                done += make is make_step
                outputs = call(*inputs)
                results.update(map(id, jax.tree.leaves(outputs)))
                kept.append(outputs)  # an id is not given twice
                return outputs

            return run

        return made

    def read(array):
        if id(array) in results:
            reads.add(done)
        return value(array)

    kept = []
    monkeypatch.setattr(build, "make_train_step", watched(make_step))
    monkeypatch.setattr(loop, "make_counter", watched(make_counter))
    monkeypatch.setattr(ArrayImpl, "_value", property(read))
    config = board_tiny.get_config("pretrain_debug")
    config.steps, config.log_every = 9, 4
    config.checkpoint_every = config.validate_every = 100
    train(config, tmp_path)
    assert reads == {4, 8, 9}
