"""Our own files with bytes flipped, cut off and added: data, checkpoints, journals.

Reading ends with what was written, or in one error line: never in other values without
a word, never in another exception.
"""

import itertools
import json
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_episodes as stored
from fuzzing import SEED, forms, run_cases, told

from data_pipelines.schema.episode import DataError
from data_pipelines.schema.output_folder import claim_settings
from data_pipelines.schema.read import read_episodes
from swm_jax.checkpoints import CheckpointError, RunCheckpoints, load_model
from swm_jax.eval import journal
from swm_jax.eval.config import UserError, preset
from swm_jax.eval.episodes import cells
from swm_jax.models import SemanticWorldModel, get_config
from swm_jax.training.monitoring.goodput import Goodput
from swm_jax.training.monitoring.metrics import MetricsLog, read_metrics

KINDS = ("flip", "overwrite", "truncate", "extend", "zeros", "swap")
SMALL = dict(vision_width=32, vision_depth=1, vision_mlp=32, width=32, depth=1, mlp=32)


class Damage(NamedTuple):
    """One damage to a file: its kind, and what decides the place."""

    path: Path
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.path.name} ({self.number})"

    def done(self) -> None:
        """Damages the file."""
        content = bytearray(self.path.read_bytes())
        rng = random.Random(f"{self.path.name} {self.kind} {self.number} {SEED}")
        at = rng.randrange(max(len(content), 1))
        more = rng.randbytes(rng.choice((1, 16, 300)))
        if self.kind == "flip" and content:
            content[at] ^= 1 << rng.randrange(8)
        elif self.kind == "overwrite":
            content[at : at + len(more)] = more
        elif self.kind == "truncate":
            del content[at:]
        elif self.kind == "extend":
            content += more
        elif self.kind == "zeros":
            content[at : at + 4096] = bytes(len(content[at : at + 4096]))
        elif self.kind == "swap":
            content = content[at:] + content[:at]
        self.path.write_bytes(content)


def damages(files, count=12):
    """`count` damages of every kind to every file."""
    every = itertools.product(sorted(files), KINDS, range(count))
    return [Damage(*each) for each in every]


def fuzz(form, name, source, copy, read, count=12, inside="**/*"):
    """Damages files of copies of a folder; calls `read` on each copy.

    Args:
      form: "short" or "long".
      name: of the target.
      source: an intact folder.
      copy: where its copies lie.
      read: of the copy's path; asserts what may come of it.
      count: damages of every kind to every file.
      inside: the files, a glob pattern.
    """
    files = [p.relative_to(source) for p in source.glob(inside) if p.is_file()]
    assert files

    def case(*made):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        for damage in made:
            damage._replace(path=copy / damage.path).done()
        read(copy)

    run_cases(form, name, damages(files, count), case)


def equal_episodes(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.image == b.image
        assert (a.instruction, a.episode) == (b.instruction, b.episode)
        np.testing.assert_array_equal(a.action, b.action)
        for name in a.state:
            np.testing.assert_array_equal(a.state[name], b.state[name])


@forms
def test_shards_of_episodes(form, tmp_path):
    episodes = [stored.board_episode(n, 6) for n in range(5)]
    source = stored.write(tmp_path / "in", episodes[:4], episodes[4:])

    def read(folder):
        line, found = told(DataError, lambda: read_episodes(folder))
        if line is None:
            equal_episodes(found, episodes[:4])
        skipped = []
        line, found = told(DataError, lambda: read_episodes(folder, "train", skipped))
        if line is None:
            assert len(found) + len(skipped) >= 4, "an episode is lost without a word"
            whole = {episode.episode: episode for episode in episodes}
            equal_episodes(found, [whole[each.episode] for each in found])

    fuzz(form, "shards", source, tmp_path / "copy", read, 60, "*-train.array_record*")


@forms
def test_metadata_of_a_data_folder(form, tmp_path):
    episodes = [stored.board_episode(n, 6) for n in range(3)]
    source = stored.write(tmp_path / "in", episodes[:2], episodes[2:])
    read = lambda folder: told(DataError, lambda: read_episodes(folder))
    fuzz(form, "metadata", source, tmp_path / "copy", read, 20, "*.json")


@forms
def test_settings_of_a_folder(form, tmp_path):
    settings = {"schema_version": 2, "config": {"episodes": 40, "name": "board"}}
    (tmp_path / "in").mkdir()
    claim_settings(tmp_path / "in" / "settings.json", settings)
    read = lambda folder: told(
        DataError, lambda: claim_settings(folder / "settings.json", settings)
    )
    fuzz(form, "settings", tmp_path / "in", tmp_path / "copy", read, 60)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two checkpoints, and the parameters of each."""
    model = SemanticWorldModel(get_config("tiny", **SMALL))
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    workdir = tmp_path_factory.mktemp("run")
    about = {"variant": "tiny", "overrides": SMALL, "tokenizer": "tiny"}
    checkpoints, saved = RunCheckpoints(workdir), {}
    for step in (1, 2):
        saved[step] = jax.tree.map(draw, shapes)
        checkpoints.save(
            step, saved[step], {"count": jnp.full((), step)}, {"step": step},
            {"stage": "swm", "model": about, "config": {}},
        )  # fmt: skip
    checkpoints.close()
    return workdir, saved


def equal_trees(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@forms
def test_checkpoints_are_resumed_unchanged_or_not_at_all(form, run, tmp_path, capsys):
    source, saved = run

    def read(folder):
        checkpoints = RunCheckpoints(folder)
        try:
            line, found = told(
                CheckpointError,
                lambda: checkpoints.restore_newest(
                    saved[1], {"count": jnp.zeros(())}, lambda metadata: None
                ),
            )
        finally:
            checkpoints.close()
        if line is None:
            assert found is not None
            equal_trees(found.params, saved[found.step])
            assert int(found.opt_state["count"]) == found.step
            if found.step == 1:
                assert "warning: " in capsys.readouterr().err

    fuzz(form, "run", source, tmp_path / "copy", read, 6, "checkpoints/2/**/*")


@forms
def test_models_are_loaded_unchanged_or_not_at_all(form, run, tmp_path):
    source, saved = run

    def read(folder):
        line, found = told(CheckpointError, lambda: load_model(folder))
        if line is None:
            equal_trees(found.params, saved[2])

    fuzz(form, "model", source, tmp_path / "copy", read, 6, "checkpoints/2/**/*")


def episode(seed):
    return journal.Episode("reach", "mppi", "swm", seed, True, 9, 0.1, 64, "red moon")


@forms
def test_journals_of_evaluations(form, tmp_path):
    config = preset("demo", tasks=("reach",))
    (tmp_path / "in").mkdir()
    begun = journal.Journal(tmp_path / "in", config)
    for seed in range(4):
        begun.append("episode", vars(episode(seed)))

    def read(folder):
        open_it = lambda: journal.Journal(folder, config).episodes()
        told(UserError, open_it)

    fuzz(form, "journal", tmp_path / "in", tmp_path / "copy", read, 60)


@forms
def test_films_of_episodes(form, tmp_path):
    env_scene = stored.board_episode(0, 5)
    config = preset("demo", tasks=("reach",))
    path = cells.episode_path(tmp_path / "in", episode(0))
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        block_id = np.broadcast_to(env_scene.state["block_id"], (6, 8))
        poses = {**env_scene.state, "block_id": block_id}
        np.savez_compressed(file, action=env_scene.action, **poses)

    def read(folder):
        scene = cells.load_episode(config, folder, episode(0))
        if scene is not None:
            np.testing.assert_array_equal(scene.peg, env_scene.state["peg"])
        actions = cells.load_actions(folder, episode(0))
        if actions is not None:
            np.testing.assert_array_equal(actions, env_scene.action)

    fuzz(form, "films", tmp_path / "in", tmp_path / "copy", read, 60)


@forms
def test_logs_of_training(form, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    rows = [{"step": step, "loss": 0.5} for step in (1, 2, 3)]
    (source / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (source / "runtime.json").write_text(json.dumps({"starts": 1, "first": 0.0}))

    def read(folder):
        for row in read_metrics(folder):
            assert isinstance(row, dict)
        log = MetricsLog(folder, 3)
        log.close()
        Goodput(folder, log.kept, 0.0, writes=True)

    fuzz(form, "logs", source, tmp_path / "copy", read, 60)
