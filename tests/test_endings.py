"""How commands end: Ctrl-C, a pipe that nobody reads, a second writer, no OpenGL."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swm_jax.locks import locked

ROOT = Path(__file__).parents[1]
SMALL_EVAL = """--tasks=reach --seeds=5000 --world_models=simulator --max_steps=4
    --methods=best_of_n --candidates=8 --video=false""".split()  # noqa: SIM905
SMALL_DATA = "--config=experiments/generate_board.py:debug --config.backend=mujoco"


def command(module, *arguments, **options):
    """A command in a process of its own, its output in pipes."""
    options.setdefault("stderr", subprocess.PIPE)
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, env=environment, **options,
    )  # fmt: skip


def run(module, *arguments, **options):
    """(status, stdout, stderr) of a command to its end."""
    process = command(module, *arguments, **options)
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def ends_after(line, process):
    """Waits for a line that begins so, closes nothing."""
    for text in process.stdout:
        if text.startswith(line):
            return
    raise AssertionError(f"ended without {line!r}: {process.stderr.read()}")


SCRIPT = """
import signal, sys, time
from swm_jax.cli import run_command

def main(argv):
    print("begun", flush=True)
    {body}

run_command(main, stopped="stopped; run it again")
"""


def script(body):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def test_ctrl_c_is_one_line_and_status_130():
    # A pool that waits for its thread would hold the process for a minute.
    process = script(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "    ThreadPoolExecutor(1).submit(time.sleep, 60)\n"
        "    time.sleep(60)"
    )
    ends_after("begun", process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (130, "\nstopped; run it again\n")


def test_a_second_ctrl_c_ends_at_once():
    process = script(
        "try:\n        print('inside', flush=True); time.sleep(60)\n"
        "    finally:\n        print('slow', flush=True); time.sleep(60)"
    )
    ends_after("inside", process)
    process.send_signal(signal.SIGINT)
    ends_after("slow", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT


def test_a_pipe_that_nobody_reads_ends_silently():
    process = script("while True: print('line')")
    ends_after("begun", process)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(20) == 141


def test_another_broken_pipe_is_an_error_of_its_own():
    process = script("raise BrokenPipeError('of a child')")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "BrokenPipeError: of a child" in error


def test_generation_stops_at_ctrl_c_and_goes_on(tmp_path):
    output = tmp_path / "data"
    arguments = (*SMALL_DATA.split(), "--episodes=40", "--output", output)
    process = command("data_pipelines.generate", *arguments)
    ends_after("  made", process)  # the first shard
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == "stopped; the same command goes on from here"
    assert not (output / "dataset_info.json").exists()
    status, out, error = run("data_pipelines.generate", *arguments)
    assert status == 0, error
    assert " 0 of them there already" not in out


def test_evaluation_under_x64_is_the_same_and_goes_on_after_a_closed_pipe(tmp_path):
    """`eval | head -1` with JAX_ENABLE_X64, beside one that nothing befalls."""
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    wide = {"JAX_ENABLE_X64": "1", "MUJOCO_GL": "nonsense"}
    process = command("swm_jax.eval", *SMALL_EVAL, "--output", cut, env=wide)
    assert process.stdout.readline().startswith("Evaluation")
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(300) == 141
    assert error.startswith("warning: JAX_ENABLE_X64 is set") and error.count("\n") == 1
    for folder, env in ((cut, wide), (whole, {})):
        status, _, error = run("swm_jax.eval", *SMALL_EVAL, "--output", folder, env=env)
        assert status == 0, error
    episodes = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds_per_replan"}
            for line in (folder / "journal.jsonl").read_text().splitlines()[1:]
        ]
        for folder in (cut, whole)
    ]
    assert episodes[0] == episodes[1]
    moves = [
        (folder / "episodes/reach.best_of_n.simulator.5000.npz").read_bytes()
        for folder in (cut, whole)
    ]
    assert len(moves[0]) == len(moves[1])


@pytest.mark.parametrize(
    ("module", "arguments", "status"),
    [
        ("swm_jax.eval", SMALL_EVAL, 2),
        ("data_pipelines.generate", SMALL_DATA.split(), 1),
    ],
)
def test_a_folder_in_use_is_told_in_one_line(module, arguments, status, tmp_path):
    with locked(tmp_path):
        found, _, error = run(module, *arguments, "--output", tmp_path)
    assert found == status
    assert error.startswith("error: ") and error.count("\n") == 1
    assert f"another run is writing to {tmp_path} now" in error
    assert not list(tmp_path.iterdir())


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys, time\nfrom swm_jax.locks import locked\n"
        "with locked(sys.argv[1]):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    told = pytest.raises(BlockingIOError, match="another run is writing to")
    with told, locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    time.sleep(0.1)
    with locked(tmp_path):
        pass


def test_physics_needs_no_opengl_and_a_renderer_says_what_is_missing():
    code = (
        "from swm_jax import prng, worlds\n"
        "from swm_jax.envs.host_renderer import open_renderer\n"
        "env = worlds.load_env('board', backend='mujoco')\n"
        "env.reset(prng.key(0))\n"
        "try:\n    open_renderer(env.physics_model(), 8, 8)\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "MUJOCO_GL": "nonsense"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "MUJOCO_GL is 'nonsense', expected egl or osmesa" in done.stdout
