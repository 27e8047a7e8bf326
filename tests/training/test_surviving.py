"""What a run survives: kills, damage, a full disk, losses that are no number."""

import json
import resource
import signal
import time
from types import SimpleNamespace

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from swm_jax.checkpoints import (
    CheckpointError,
    KeepBest,
    RunCheckpoints,
    load_model,
)
from swm_jax.checkpoints.formats.detect import detect, split_subtree
from swm_jax.checkpoints.formats.orbax.step_folder import find_step
from swm_jax.checkpoints.run.checksums import bit_sums
from swm_jax.training.distributed import StopSignal
from swm_jax.training.monitoring.goodput import Goodput, PhaseClock
from swm_jax.training.monitoring.metrics import MetricsLog, read_metrics
from swm_jax.training.monitoring.profiling import parse_steps

SIZE = 60_000  # numbers of a tree: 240 kB of noise, which hardly compresses


def state(step):
    rng = np.random.default_rng(step)
    params = {"w": jnp.asarray(rng.normal(size=SIZE).astype("f4")), "b": jnp.ones(3)}
    return params, {"mu": jnp.asarray(rng.normal(size=SIZE).astype("f4"))}


def save(checkpoints, step, **metrics):
    metrics = {name.replace("_", "/"): value for name, value in metrics.items()}
    checkpoints.save(step, *state(step), {"step": step}, {"stage": "x"}, metrics)


def resume(workdir):
    """The step that a run would go on from, its state checked."""
    checkpoints = RunCheckpoints(workdir)
    try:
        found = checkpoints.restore_newest(*state(0), lambda metadata: None)
        if found is not None:
            jax.tree.map(
                np.testing.assert_array_equal,
                (found.params, found.opt_state),
                state(found.step),
            )
            assert found.data == {"step": found.step}
        return found
    finally:
        checkpoints.close()


def saved_run(workdir, steps=(1, 2, 3)):
    checkpoints = RunCheckpoints(workdir, keep=len(steps))
    for step in steps:
        save(checkpoints, step)
    checkpoints.close()
    assert checkpoints.trouble is None
    return workdir / "checkpoints"


def biggest(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def truncate(step):
    path = biggest(step)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete_data(step):
    biggest(step).unlink()


def garbage(step):
    path = biggest(step)
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def flip_one_bit(step):
    path = biggest(step)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def no_metadata(step):
    (step / "metadata" / "metadata").unlink()


def cut_metadata(step):
    (step / "metadata" / "metadata").write_text('{"format": "swm')


def no_optimizer(step):
    for path in sorted((step / "opt_state").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def no_manifest(step):
    (step / "params" / "manifest.ocdbt").unlink()


HARM = [
    truncate,
    delete_data,
    garbage,
    flip_one_bit,
    no_metadata,
    cut_metadata,
    no_optimizer,
    no_manifest,
]


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(harm, tmp_path, capfd):
    folder = saved_run(tmp_path)
    harm(folder / "3")
    found = resume(tmp_path)
    assert found.step == 2
    warning = capfd.readouterr().err
    assert f"{folder / '3'}" in warning and "going on from step 2" in warning
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2", "damaged-3"]
    again = saved_run(tmp_path, (3,)).iterdir()  # the number is free for a new one
    assert "3" in {p.name for p in again}


def test_two_damaged_checkpoints_are_skipped_and_three_are_an_error(tmp_path):
    folder = saved_run(tmp_path)
    truncate(folder / "3")
    no_metadata(folder / "2")
    assert resume(tmp_path).step == 1
    folder = saved_run(tmp_path / "other")
    for step in "123":
        truncate(folder / step)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be resumed"):
        resume(tmp_path / "other")
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2", "3"]


def test_a_save_cut_off_half_way_is_no_checkpoint(tmp_path):
    folder = saved_run(tmp_path)
    (folder / "3").rename(folder / "3.orbax-checkpoint-tmp")
    assert resume(tmp_path).step == 2
    (folder / "5" / "params").mkdir(parents=True)  # no metadata, as a copy cut short
    assert find_step(tmp_path) == folder / "2"


def test_the_best_checkpoints_stay_beside_the_newest(tmp_path):
    best = KeepBest("validation/loss", "min", count=2)
    scores = {1: 5.0, 2: 3.0, 3: 4.0, 4: float("nan"), 5: 6.0, 6: 7.0}
    checkpoints = RunCheckpoints(tmp_path, keep=1, best=best)
    for step in (1, 2, 3):
        save(checkpoints, step, validation_loss=scores[step])
    checkpoints.close()
    checkpoints = RunCheckpoints(tmp_path, keep=1, best=best)  # remembered
    for step in (4, 5, 6):
        save(checkpoints, step, validation_loss=scores[step])
    assert checkpoints.best_step() == 2
    checkpoints.close()
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["2", "3", "6"]
    with pytest.raises(
        ValueError, match=r"is 'validation/loss'; known: validation/acc"
    ):
        save(checkpoints, 7, validation_accuracy=0.5)
    (tmp_path / "checkpoints/3/metrics/metrics").write_text("{")
    checkpoints = RunCheckpoints(tmp_path, keep=1, best=best)
    assert checkpoints.best_step() == 2 and checkpoints.latest_step() == 6
    checkpoints.close()


@pytest.mark.parametrize("wrong", [0, -5, 1.5, None, "20"])
def test_how_long_a_save_may_take_and_how_many_stay_are_whole_numbers(wrong, tmp_path):
    for name, option in (("save_timeout", "timeout"), ("keep_checkpoints", "keep")):
        message = f"^{name} is {wrong}, expected a whole number from 1 on"
        with pytest.raises(ValueError, match=message):
            RunCheckpoints(tmp_path, **{option: wrong})
    assert not (tmp_path / "checkpoints").exists()


def test_bit_sums_follow_their_definition_and_notice_one_bit():
    words = np.random.default_rng(0).integers(0, 2**32, 35, dtype=np.uint32)
    array = words.view(np.float32).reshape(5, 7)
    total = 0
    for place, word in enumerate(words.tolist()):
        total += word * ((place * 2_654_435_761) % 2**32 | 1)
    assert bit_sums({"x": jnp.asarray(array)}) == total % 2**32
    for bit in (0, 13, 31):
        changed = words.copy()
        changed[17] ^= np.uint32(1 << bit)
        changed = changed.view(np.float32).reshape(5, 7)
        assert bit_sums({"x": jnp.asarray(changed)}) != total % 2**32
    for dtype in (jnp.bfloat16, jnp.int8, bool, jnp.int32):
        one = jnp.arange(6).astype(dtype)
        assert bit_sums([one]) != bit_sums([one[::-1]])


@pytest.fixture
def full_disk():
    """No file may grow beyond 60 kB, until what is yielded is called."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax would fill the capture file
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    room = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    yield room
    room()
    signal.signal(signal.SIGXFSZ, handler)
    absl.logging.set_verbosity(verbosity)


def test_a_full_disk_is_told_and_the_next_save_tries_again(tmp_path, capfd, full_disk):
    checkpoints = RunCheckpoints(tmp_path)
    for step in (1, 2):
        save(checkpoints, step)
        checkpoints.wait()
        assert checkpoints.trouble and not checkpoints.all_saved()
    warnings = capfd.readouterr().err.splitlines()
    told = [line for line in warnings if line.startswith("warning: step")]
    assert ["step 1" in told[0], "step 2" in told[1], len(told)] == [True, True, 2]
    full_disk()
    save(checkpoints, 3)
    checkpoints.wait()
    assert checkpoints.trouble is None and checkpoints.all_saved()
    checkpoints.close()
    assert resume(tmp_path).step == 3


def test_a_storage_that_is_gone_is_told_and_used_again_once_back(tmp_path, capfd):
    workdir = tmp_path / "run"
    checkpoints = RunCheckpoints(workdir)
    save(checkpoints, 1)
    checkpoints.wait()
    workdir.rename(tmp_path / "away")
    workdir.write_text("no folder")  # nothing can be made below it
    save(checkpoints, 2)
    checkpoints.wait()
    assert "step 2 could not be saved" in capfd.readouterr().err
    workdir.unlink()
    (tmp_path / "away").rename(workdir)
    save(checkpoints, 3)
    checkpoints.close()
    assert checkpoints.trouble is None
    assert resume(workdir).step == 3


def test_metrics_log_holds_every_step_once_after_a_resume(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (10, 20, 30):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    log = MetricsLog(tmp_path, resume_step=20)
    log.write(30, {"loss": 7.0, "bad": float("nan")})
    log.close()
    assert read_metrics(tmp_path) == [
        {"step": 10, "loss": 0.1},
        {"step": 20, "loss": 0.05},
        {"step": 30, "loss": 7.0},
    ]


def test_lines_wait_for_room_and_none_is_cut_in_half(tmp_path, capfd, full_disk):
    log = MetricsLog(tmp_path)
    wide = {f"metric/{i}": float(i) for i in range(200)}
    for step in range(1, 21):  # 4 kB each
        log.write(step, wide)
    assert "lines are kept" in capfd.readouterr().err
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.endswith("}\n") and 0 < text.count("\n") < 20
    full_disk()
    log.write(21, wide)
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 22))


@pytest.fixture
def bucket(monkeypatch):
    """gs:// that lives in memory."""
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        protocol, store, pseudo_dirs = "gs", {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            path = path.removeprefix("gs://").strip("/")
            return f"/{path}" if path else ""

    known = fsspec.registry
    fsspec.register_implementation("gs", Bucket, clobber=True)
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **_: Bucket())
    assert known["gs"] is Bucket
    return epath.Path("gs://bucket/run")


def test_metrics_and_goodput_go_to_an_object_store(bucket):
    log = MetricsLog(bucket)
    for step in (1, 2, 3):
        log.write(step, {"loss": float(step)})
    log.sync()
    assert [row["step"] for row in read_metrics(bucket)] == [1, 2, 3]
    log.close()
    log = MetricsLog(bucket, resume_step=2)
    assert [row["step"] for row in read_metrics(bucket)] == [1, 2]
    log.write(3, {"loss": 9.0})
    log.close()
    assert read_metrics(bucket)[-1] == {"step": 3, "loss": 9.0}
    assert any((bucket / "tensorboard").iterdir())
    Goodput(bucket, (), 0.0).add(PhaseClock().take())
    assert json.loads((bucket / "runtime.json").read_text())["starts"] == 1


def test_of_an_object_store_only_orbax_folders_are_read(bucket):
    for item in ("params", "metadata"):
        (bucket / "checkpoints" / "5" / item).mkdir(parents=True)
        (bucket / "checkpoints" / "5" / item / "metadata").write_text("{}")
    for path in (bucket, str(bucket)):
        assert detect(split_subtree(path)[0]) == "orbax"
    with pytest.raises(CheckpointError, match=r"^gs://bucket/run/checkpoints/5 "):
        load_model(str(bucket))
    other = bucket.parent / "paligemma"
    for name in ("config.json", "model.safetensors"):
        (other / name).write_text("{}")
    with pytest.raises(CheckpointError, match="copy it to a disk"):
        load_model("gs://bucket/paligemma")
    with pytest.raises(CheckpointError, match="gs://bucket/nowhere does not exist"):
        load_model("gs://bucket/nowhere")


def test_goodput_is_the_share_of_time_in_steps_that_count(tmp_path):
    seconds = dict.fromkeys(("compile", "data", "validate", "save", "other"), 1.0)
    first = Goodput(tmp_path, (), began=0.0)
    first.add({**seconds, "start": 5.0, "step": 10.0})
    # Killed. Of its ten seconds of steps, four were kept: those of the logged rows.
    rows = [{"step": 1, "seconds/step": 3.0}, {"step": 2, "seconds/step": 1.0}]
    second = Goodput(tmp_path, rows, began=0.0)
    share = second.add({**seconds, "start": 5.0, "step": 6.0})
    np.testing.assert_allclose(share, (4 + 6) / (20 + 16))
    assert "2 starts" in second.summary()
    assert "steps run again 0:06" in second.summary()


def test_phases_add_up_to_the_time_that_passed(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 5.0, 5.5, 7.0, 9.0])
    # The module's own clock: other threads ask for the time too.
    known = SimpleNamespace(time=time.time, monotonic=lambda: next(now))
    monkeypatch.setattr("swm_jax.training.monitoring.goodput.time", known)
    clock = PhaseClock()  # at 0
    with clock("data"):  # 1 to 4
        pass
    clock.charge("start")  # at 5: 1 + 1 seconds in no phase
    with clock("step"):  # 5.5 to 7
        pass
    took = clock.take()  # at 9
    assert {k: v for k, v in took.items() if v} == {
        "data": 3.0,
        "start": 2.0,
        "step": 1.5,
        "other": 2.5,
    }


def test_sigterm_is_remembered_until_asked_and_given_back():
    before = signal.getsignal(signal.SIGTERM)
    stop = StopSignal()
    assert not stop.reached(1)
    signal.raise_signal(signal.SIGTERM)
    assert stop.reached(2)
    stop.close()
    assert signal.getsignal(signal.SIGTERM) is before


def test_profile_steps_are_two_numbers():
    assert parse_steps("100:110") == (100, 110)
    assert parse_steps("") is None
    for text in ("100", "110:100", "a:b", "5:5"):
        with pytest.raises(ValueError, match="expected first:last"):
            parse_steps(text)
