"""A run that is resumed with another config says what differs, or is refused."""

import dataclasses

import pytest
from test_trainable import TRAINING, Cloning, Demonstrations

from swm_jax.conditions import conditions
from swm_jax.training import TrainingError, fit, resume
from swm_jax.training.experiment import Experiment
from swm_jax.training.optimizer import Optimizer

SHORT = dataclasses.replace(TRAINING, steps=2, validate_every=2, checkpoint_every=2)


@pytest.fixture
def workdir(tmp_path, capsys):
    fit(SHORT, Cloning(), Demonstrations, tmp_path)
    capsys.readouterr()
    return tmp_path


def resumed(workdir, capsys, **changed):
    config = dataclasses.replace(SHORT, steps=3, **changed)
    fit(config, Cloning(), Demonstrations, workdir)
    return capsys.readouterr().out.splitlines()


def test_what_differs_is_told_before_the_first_step(workdir, capsys):
    optimizer = dataclasses.replace(SHORT.optimizer, learning_rate=0.5)
    lines = resumed(workdir, capsys, seed=3, optimizer=optimizer)
    assert lines[:4] == [
        f"resumed {workdir} at step 2",
        "  other than before: optimizer.learning_rate was 0.02, is 0.5",
        "  other than before: seed was 0, is 3",
        "  other than before: steps was 2, is 3",
    ]
    assert lines[4].startswith("step 3/3")


def test_the_same_config_is_resumed_without_a_word(workdir, capsys):
    fit(SHORT, Cloning(), Demonstrations, workdir)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"resumed {workdir} at step 2"
    assert not [line for line in rest if "other than" in line]


def test_another_jax_is_told(workdir, capsys, monkeypatch):
    now = conditions() | {"jax": "99.0"}
    monkeypatch.setattr("swm_jax.training.loop.conditions", lambda: now)
    lines = resumed(workdir, capsys)
    (told,) = [line for line in lines if "jax was" in line]
    assert told.endswith("is '99.0'")


def test_another_optimizer_is_refused(workdir, capsys):
    muon = Optimizer("muon", learning_rate=0.02, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"optimizer.name is adamw, .* muon; use"):
        resumed(workdir, capsys, optimizer=muon)


def test_batches_of_an_experiment_are_compared_and_its_planner_is_not():
    before = {"config": as_stored(Experiment())}
    now = Experiment(name="other").to_config()
    now.data.images, now.planner.candidates = 7, 99
    told = resume.changes(before, {"config": now.to_dict()})
    assert told == [f"data.images was {Experiment().data.images}, is 7"]


def as_stored(experiment):
    """A config as a checkpoint's JSON gives it back: its tuples are lists."""
    lists = lambda x: (
        {k: lists(v) for k, v in x.items()}
        if isinstance(x, dict)
        else [*map(lists, x)]
        if isinstance(x, tuple | list)
        else x
    )
    return lists(experiment.to_config().to_dict())


def test_many_differences_are_cut_short():
    before = {"config": {f"field_{i:02}": 0 for i in range(30)}}
    told = resume.changes(before, {"config": {f"field_{i:02}": 1 for i in range(30)}})
    assert len(told) == resume.MOST + 1 and told[-1] == "and 10 more"
