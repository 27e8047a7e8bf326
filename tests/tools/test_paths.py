"""Paths of users: `~` is their home folder, wherever a command takes a path."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from foreign_data import lerobot

from data_pipelines.schema.episode import DataError, encode_png
from data_pipelines.schema.read import open_dataset
from data_pipelines.sources.convert import Settings, convert
from swm_jax.checkpoints import CheckpointError, load_model
from swm_jax.checkpoints.run.manager import checkpoints_folder
from swm_jax.cli import define_path
from swm_jax.files import found_path, local_path, two_paths, user_path
from swm_jax.models import Tokenizer

ROOT = Path(__file__).parents[2]
NAMES = {
    *("output", "workdir", "checkpoint", "data_dir", "data", "tokenizer", "base"),
    *("questions", "model_file", "json", "hlo", "poses", "results", "document"),
    *("folder", "init_from", "compilation_cache_dir", "path", "file", "dir"),
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "~").exists()


def defined(path):
    """(function, name) of every flag that a file defines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield ast.unparse(node.func), name.value


def test_flags_that_take_a_path_are_declared_so():
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for package in ("swm_jax", "data_pipelines", "experiments")
        for path in (ROOT / package).rglob("*.py")
        for function, name in defined(path)
        if function.startswith("flags.DEFINE_") and name in NAMES
    }
    assert found == set()


def test_a_path_flag_knows_the_home_folder(home):
    values = flags.FlagValues()
    holder = {}
    real = flags.DEFINE

    def define(*args, **options):
        holder["flag"] = real(*args, flag_values=values, **options)
        return holder["flag"]

    flags.DEFINE = define
    try:
        define_path("output", None, "words")
    finally:
        flags.DEFINE = real
    for given, expected in (
        ("--output=~/x", f"{home}/x"),
        ("--output=gs://bucket/~x", "gs://bucket/~x"),
        ("--output=a/~", "a/~"),
        ("--output=", ""),
    ):
        values(["program", given])
        assert values.output == expected


def test_functions_that_take_a_path_know_the_home_folder(home):
    assert user_path("~/a") == home / "a"
    assert os.fspath(user_path("gs://bucket/~a")) == "gs://bucket/~a"
    with pytest.raises(DataError, match=f"no data set at {home}/none"):
        open_dataset("~/none")
    with pytest.raises(CheckpointError, match=f"{home}/none does not exist"):
        load_model("~/none")
    with pytest.raises(ValueError, match="no tokenizer"):
        Tokenizer.load("~/none")
    assert os.fspath(checkpoints_folder("~/run")) == f"{home}/run/checkpoints"


def test_commands_know_the_home_folder(home, monkeypatch):
    import foreign_data

    pictures = lambda e, t: encode_png(foreign_data.frame(e, t))
    lerobot(home / "in", "v2.1", pictures=pictures)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run = lambda *command: subprocess.run(
        [sys.executable, "-m", *command], cwd=home, capture_output=True, text=True
    )
    done = run("data_pipelines.convert", "~/in", "~/out", "--size=24x24")
    assert done.returncode == 0, done.stderr
    assert (home / "out" / "dataset_info.json").exists()
    done = run("data_pipelines.describe", "~/out", "--output=~/page.html")
    assert done.returncode == 0, done.stderr
    assert (home / "page.html").exists()


def test_object_stores_are_no_local_folders(home):
    with pytest.raises(ValueError, match="is in an object store, expected a local"):
        local_path("gs://bucket/x")
    pictures = lambda e, t: b""
    source = lerobot(home / "in", "v2.1", pictures=pictures)
    with pytest.raises(ValueError, match="is in an object store"):
        convert(source, "gs://bucket/out", Settings())
    assert not (home / "gs:").exists()


def test_a_path_is_found_from_either_of_two_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "base").mkdir(parents=True)
    stored = two_paths("a/base", "a/run")
    assert stored == {"absolute": f"{tmp_path}/a/base", "relative": "../base"}
    assert found_path(stored, tmp_path / "a" / "run").samefile(tmp_path / "a" / "base")
    assert found_path(stored, tmp_path / "elsewhere" / "run") == tmp_path / "a" / "base"
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b" / "run").mkdir()
    assert found_path(stored, tmp_path / "b" / "run").samefile(tmp_path / "b" / "base")
    assert found_path(stored, tmp_path / "elsewhere") is None
    assert two_paths("gs://bucket/a", tmp_path) == {"absolute": "gs://bucket/a"}
