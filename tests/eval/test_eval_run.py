"""python -m swm_jax.eval from end to end, small; and every mistake in one line."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from swm_jax import baselines, worlds
from swm_jax.checkpoints import RunCheckpoints, export_model
from swm_jax.eval import journal as results_
from swm_jax.eval import world_models
from swm_jax.eval.answers import held_out
from swm_jax.eval.config import METHODS, UserError, preset
from swm_jax.eval.episodes import cells as planning
from swm_jax.eval.sweep import evaluate
from swm_jax.models import SemanticWorldModel, Tokenizer, get_config
from swm_jax.planning import PLANNERS

SMALL = dict(vision_width=32, vision_depth=1, vision_mlp=32, width=32, depth=1, mlp=32)


def write_checkpoint(folder, overrides=SMALL, export=True, **metadata):
    """An untrained model, exported as a trained one would be, or the run's folder."""
    config = get_config("tiny", **overrides)
    params = jax.jit(SemanticWorldModel(config).init_params)(jax.random.key(0))
    model = {"variant": "tiny", "overrides": overrides, "tokenizer": "tiny"}
    run = RunCheckpoints(folder / "run")
    about = {"stage": "swm", "model": {**model, **metadata}, "config": {}}
    run.save(3, params, {"count": np.zeros(())}, {"step": 3}, about)
    run.close()
    return export_model(folder / "run", folder / "model") if export else folder / "run"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def env():
    return worlds.load_env("board", backend="mujoco")


def small(**changes):
    base = dict(
        tasks=("reach",), methods=("best_of_n",), seeds=(6000, 6001), max_steps=6,
        candidates=8, qa_episodes=4, qa_queries=300, sensitivity_scenes=2,
        sensitivity_candidates=8,
    )  # fmt: skip
    return dataclasses.replace(preset("demo", **base), **changes)


def test_whole_evaluation_writes_what_it_promises_and_goes_on(
    checkpoint, tmp_path, monkeypatch, capsys
):
    config = small(checkpoint=str(checkpoint))
    found = evaluate(config, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == found
    rows = {r["world_model"]: r for r in found["planning"]}
    assert list(rows) == ["swm", "simulator", "random"]
    for row in rows.values():
        assert row["episodes"] == 2 and row["seeds"] == [6000, 6001]
    assert rows["swm"]["candidates_per_replan"] == 8
    assert rows["random"]["method"] == "random"
    assert 0.0 <= found["qa"]["balanced_accuracy"] <= 1.0
    assert set(found["qa"]["per_type"]) <= set(worlds.language("board").by_name)
    assert -1.0 <= found["action_sensitivity"]["mean"] <= 1.0
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Episodes</h2>" in page and "data:image/jpeg" in page
    assert [p.stem for p in tmp_path.glob("reach.*")] == ["reach"]
    said = capsys.readouterr().out
    assert "6 episodes" in said and str(tmp_path / "report.html") in said

    # Started again, it has nothing left to do; with more seeds, only those.
    asked = []
    monkeypatch.setattr(
        planning, "run_episodes",
        lambda env, tasks, *rest, **more: asked.append(list(tasks)),
    )  # fmt: skip
    again = evaluate(small(checkpoint=str(checkpoint), video=False), tmp_path)
    assert not asked and again["planning"] == found["planning"]
    assert again["qa"] == found["qa"]
    grown = small(checkpoint=str(checkpoint), seeds=(6000, 6001, 6002), video=False)
    evaluate(grown, tmp_path)
    assert asked == [[("reach", 6002)]] * 3

    other = write_checkpoint(tmp_path / "other", {**SMALL, "mlp": 64})
    with pytest.raises(UserError, match=r"another configuration.*checkpoint was"):
        evaluate(small(checkpoint=str(other)), tmp_path)


def test_a_killed_sweep_keeps_what_was_finished(env, tmp_path, monkeypatch):
    config = small(world_models=("simulator",), seeds=(1, 2, 3))
    journal = results_.Journal(tmp_path, config)
    world = {"simulator": baselines.load("simulator", env)}

    class Killed(Exception):
        pass

    def finish(episode):
        if len(journal.episodes()) == 2:
            raise Killed

    one_by_one = dataclasses.replace(config, episodes_parallel=1)
    quiet = lambda method, world_model, count: None
    with pytest.raises(Killed):
        planning.run_sweep(one_by_one, env, world, journal, tmp_path, quiet, finish)
    again = results_.Journal(tmp_path, config)
    first = again.episodes()
    assert [e.seed for e in first] == [1, 2]
    planning.run_sweep(
        one_by_one, env, world, again, tmp_path, quiet, lambda episode: None
    )
    assert again.episodes()[:2] == first
    assert sorted(e.seed for e in again.episodes()) == [1, 2, 3]
    scene = planning.load_episode(config, tmp_path, again.episodes()[2])
    assert scene.block_pose.shape == (again.episodes()[2].steps + 1, 8, 3)


def test_best_of_n_looks_at_as_many_as_the_others(env):
    config = preset("demo", candidates=16, iterations=3)
    budget = lambda m: planning.make_planner(config, m).config.candidates_per_replan
    assert {budget(m) for m in ("mppi", "cem", "best_of_n")} == {48}


@pytest.mark.parametrize("world", worlds.names())
def test_methods_are_the_registrys_planners_with_the_settings_of_a_world(world):
    assert {*METHODS} == {*PLANNERS} - {"best_of_proposals"}
    size = worlds.load(world).env.action_size
    for method in METHODS:
        for few in (1, 2, 5, 9):  # settings that follow the number of candidates
            config = preset(
                "demo", world=world, candidates=few, world_models=("swm",), iterations=1
            )
            made = planning.make_planner(config, method)
            assert made.config.action_size == size
    with pytest.raises(UserError, match="best_of_proposals ranks the proposals"):
        preset("demo", world=world, methods=("best_of_proposals",))


def test_numbers_that_no_method_uses_are_refused():
    with pytest.raises(UserError, match="--iterations 3 changes nothing: --methods r"):
        preset("demo", methods=("random",), iterations=3)
    assert preset("demo", methods=("random", "cem"), iterations=3).iterations == 3


def test_gradients_of_the_simulator_are_refused_before_anything_runs():
    with pytest.raises(UserError, match=r"hybrid climbs gradients.*--world_models swm"):
        preset("demo", methods=("mppi", "hybrid"), world_models=("swm", "simulator"))
    preset("demo", methods=("mppi", "hybrid"), world_models=("swm", "random"))


def test_demo_looks_at_no_more_than_400_candidates_a_replan():
    demo = preset("demo")
    for method in ("mppi", "cem", "best_of_n"):
        planner = planning.make_planner(demo, method)
        assert planner.config.candidates_per_replan <= 400


def command(*arguments, folder=None):
    return subprocess.run(
        [sys.executable, "-m", "swm_jax.eval", *arguments],
        capture_output=True, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks=reech"], "unknown task 'reech' (did you mean 'reach'?); known: "),
        (["--seeds=6000-6050"], "--seeds '6000-6050': cannot read '6000-6050'"),
        (["reach"], "unexpected argument 'reach'"),
        (["--candidates=abc"], "--candidates=abc: expected an integer"),
        (["--checkpoint=/nowhere"], "checkpoint /nowhere does not exist"),
    ],
)
def test_mistakes_on_the_command_line_end_in_one_line(arguments, message, tmp_path):
    done = command(*arguments, folder=tmp_path)
    assert done.returncode == 2
    error = done.stderr.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and message in error[0]
    assert not list(tmp_path.iterdir())  # a mistake leaves nothing behind


def refusal(**changes):
    with pytest.raises(UserError) as error:
        world_models.load_learned(small(**changes))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_half_written_checkpoint_is_refused(checkpoint, tmp_path):
    half = tmp_path / "half"
    (half / "metadata").mkdir(parents=True)
    (half / "metadata" / "metadata").write_text("{")
    assert "not a complete checkpoint: no params" in refusal(checkpoint=str(half))
    (half / "params").mkdir()
    assert "cannot be read" in refusal(checkpoint=str(half))


def copy_with(checkpoint, tmp_path, **model):
    import shutil

    path = tmp_path / "copy"
    shutil.copytree(checkpoint, path)
    about = path / "metadata" / "metadata"
    metadata = json.loads(about.read_text())
    metadata["model"] |= model
    about.write_text(json.dumps(metadata))
    return str(path)


def test_checkpoint_of_another_variant_is_refused(checkpoint, tmp_path):
    path = copy_with(checkpoint, tmp_path, overrides={**SMALL, "width": 64})
    message = refusal(checkpoint=path)
    assert "does not hold this model" in message and "expected" in message


def test_checkpoint_of_an_unknown_variant_is_refused(checkpoint, tmp_path):
    path = copy_with(checkpoint, tmp_path, variant="tinny")
    assert "unknown model variant 'tinny' (did you mean 'tiny'?)" in refusal(
        checkpoint=path
    )


def test_checkpoint_of_another_vocabulary_is_refused(tmp_path):
    few = {**SMALL, "vocab_size": 16}
    path = write_checkpoint(tmp_path, few, export=False)
    pieces = Tokenizer.load("tiny").vocab_size
    assert f"has {pieces} pieces, more than the 16 rows" in refusal(
        checkpoint=str(path)
    )


def test_checkpoint_of_another_robot_is_refused(tmp_path):
    path = write_checkpoint(tmp_path, {**SMALL, "action_size": 5})
    assert "actions have 5 numbers" in refusal(checkpoint=str(path))


def test_data_folder_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--data_dir .*nowhere"):
        held_out.stored_episodes(str(tmp_path / "nowhere"), 2, "board")
    with pytest.raises(UserError, match=f"--data_dir {tmp_path}"):
        held_out.stored_episodes(str(tmp_path), 2, "board")


def test_output_that_cannot_be_written_is_named(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(UserError, match="cannot write to --output"):
        evaluate(small(world_models=("random",)), taken)
