"""Mistakes in flags and `--config` end a command in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
from absl import flags
from swm_jax.cli import define_config, run_command
chosen = define_config({default!r}, "A config.", {status})
flags.DEFINE_integer("count", None, "A number.")
flags.DEFINE_float("share", 0.5, "Another.", 0.0, 1.0)
flags.DEFINE_enum("kind", "a", ["a", "b"], "One of two.")
flags.DEFINE_boolean("loud", False, "A switch.")
run_command(lambda argv: print(chosen.value.name, argv[1:]), {status})
"""
# As above, but it takes no arguments and needs two flags.
STRICT = """
from absl import flags
from swm_jax.cli import no_arguments, run_command
flags.DEFINE_string("output", None, "A folder.", required=True)
flags.DEFINE_string("input", None, "Another.", required=True)
run_command(no_arguments, 2)
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


def run(default, *flags, status=1) -> tuple[int, str, list[str]]:
    return call(COMMAND.format(default=default, status=status), *flags)


def call(program, *flags) -> tuple[int, str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", program, *flags],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_a_config_and_its_fields_are_read(file):
    assert run(None, f"--config={file}", "--config.name=x", "y") == (0, "x ['y']\n", [])
    assert run(file, "--config.name=x") == (0, "x []\n", [])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--count", "abc"], "--count=abc: expected an integer"),
        (["--count=1.5"], "--count=1.5: expected an integer"),
        (["--share=x"], "--share=x: expected a number in the range [0.0, 1.0]"),
        (["--share=2"], "--share=2: 2.0 is not a number in the range [0.0, 1.0]"),
        (["--kind=c"], "--kind=c: value should be one of <a|b>"),
        (["--loud=maybe"], "--loud=maybe: "),
        (["--count"], "Missing value for flag --count"),
        (["--cuont=3"], "Unknown command line flag 'cuont'. Did you mean: count ?"),
        (["--config.steps=x"], "--config.steps=x: expected an integer"),
    ],
)
def test_a_mistake_in_a_flag_is_named_in_one_line_with_the_commands_status(
    file, flags, words
):
    for status in (1, 2):
        code, out, error = run(file, *flags, status=status)
        assert (code, out, len(error)) == (status, "", 1)
        assert error[0].startswith(f"error: {words}")


def test_flags_that_are_missing_and_arguments_too_many_are_named_in_one_line():
    assert call(STRICT) == (2, "", ["error: --output is missing; --input is missing"])
    code, out, error = call(STRICT, "--output=a", "--input=b", "c")
    assert (code, out) == (2, "")
    assert error == ["error: unexpected argument 'c'; flags start with --"]


def test_all_commands_read_their_flags_in_one_place():
    root = Path(__file__).parents[2]
    files = [
        path
        for folder in ("swm_jax", "data_pipelines", "experiments")
        for path in root.glob(f"{folder}/**/*.py")
        if "absl" in path.read_text()
    ]
    begun = [path for path in files if "run_command(main" in path.read_text()]
    assert len(begun) > 20
    others = [path for path in files if "app.run(" in path.read_text()]
    assert others == [root / "swm_jax" / "cli.py"]


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
