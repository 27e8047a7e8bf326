"""Mistakes in `--config` end a command in one line, with a default file and without."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
from absl import app
from swm_jax.cli import define_config, read_flags
chosen = define_config({default!r}, "A config.")
app.run(lambda argv: print(chosen.value.name, argv[1:]), flags_parser=read_flags)
"""
FILE = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({"name": "mine", "steps": 1})
"""


@pytest.fixture
def file(tmp_path) -> str:
    (tmp_path / "mine.py").write_text(FILE)
    return str(tmp_path / "mine.py")


def run(default, *flags) -> tuple[int, str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format(default=default), *flags],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_a_config_and_its_fields_are_read(file):
    assert run(None, f"--config={file}", "--config.name=x", "y") == (0, "x ['y']\n", [])
    assert run(file, "--config.name=x") == (0, "x []\n", [])


@pytest.mark.parametrize("given", [True, False])
def test_a_field_that_the_config_lacks_is_named_with_the_nearest(file, given):
    flags = [f"--config={file}"] if given else []
    code, out, error = run(None if given else file, *flags, "--config.stpes=3")
    assert (code, out) == (1, "") and len(error) == 1
    assert error[0].startswith("error: no such field of the config: 'stpes'")
    assert '"steps" instead of "stpes"' in error[0]


def test_a_mistake_in_the_file_itself_keeps_its_traceback(file):
    Path(file).write_text(FILE.replace("ConfigDict", "ConfigDicts"))
    code, _, error = run(None, f"--config={file}")
    assert code == 1 and "Traceback" in error[0]
    assert "no attribute 'ConfigDicts'" in error[-1]


def test_a_file_that_is_not_there_is_named():
    code, out, error = run(None, "--config=nowhere/mine.py")
    assert (code, out) == (1, "") and len(error) == 1
    assert error[0].startswith("error: --config: ") and "nowhere/mine.py" in error[0]
