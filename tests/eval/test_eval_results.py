"""Settings, journal and results.json: what is promised, and what is refused."""

import dataclasses
import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swm_jax import conditions
from swm_jax.eval import config as configs
from swm_jax.eval import journal as results
from swm_jax.eval.config import UserError


def episode(seed=6000, success=True, **changes):
    fields = dict(
        task="reach", method="mppi", world_model="swm", seed=seed, success=success,
        steps=20, seconds_per_replan=0.5, candidates_per_replan=256,
    )  # fmt: skip
    return results.Episode(**{**fields, **changes})


@given(st.lists(st.integers(0, 300), min_size=1, unique=True))
def test_seeds_survive_being_written(seeds):
    text = configs.format_seeds(seeds)
    assert configs.parse_seeds(text) == tuple(seeds)


def test_seeds_read_ranges_and_lists():
    assert configs.parse_seeds("6000:6003") == (6000, 6001, 6002)
    assert configs.parse_seeds("1, 5,2:4 ,5") == (1, 5, 2, 3)


@pytest.mark.parametrize(
    "text", ["", "a", "6000:", "5:5", "9:3", "1,,2", "-3", "1:2:3", "0:9999999999"]
)
def test_bad_seeds_are_named(text):
    with pytest.raises(UserError, match="--seeds"):
        configs.parse_seeds(text)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "tasks",
            ("reech",),
            r"unknown task 'reech' \(did you mean 'reach'\?\); known: ",
        ),
        (
            "methods",
            ("mpi",),
            r"unknown method 'mpi' \(did you mean 'mppi'\?\); known: ",
        ),
        ("world_models", ("simulater",), "unknown world model .* 'simulator'"),
        ("goal", "shape", r"unknown goal 'shape' \(did you mean 'shaped'\?\); known: "),
        ("tasks", (), "--tasks is empty"),
        ("candidates", -1, "--candidates is -1, expected 0 or more"),
        ("episodes_parallel", 0, "--episodes_parallel is 0, expected 1 or more"),
    ],
)
def test_unknown_names_and_numbers_are_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        configs.preset("demo", **{field: value})


def test_unknown_preset_suggests_one():
    with pytest.raises(UserError, match="did you mean 'demo'"):
        configs.preset("demos")


def test_demo_preset_holds_what_it_promises():
    demo = configs.preset("demo")
    assert set(demo.tasks) == {"reach", "separate", "block_to_block"}
    assert len(demo.seeds) >= 5
    final = set(range(6000, 6050))  # seen once, when everything is tuned
    assert not final & set(demo.seeds)
    assert set(demo.world_models) == {"swm", "simulator", "random"}
    full = configs.preset("full")
    assert full.seeds == tuple(range(6000, 6050))


def test_everything_random_is_one_cell():
    both = configs.preset(
        "demo", tasks=("reach",), methods=("mppi", "cem", "random"),
        world_models=("swm", "random"),
    )  # fmt: skip
    assert sorted(both.cells()) == [
        ("reach", "cem", "swm"),
        ("reach", "mppi", "swm"),
        ("reach", "random", "random"),
    ]


def test_planning_rows_have_the_promised_schema():
    rows = results.summarise(
        [episode(1), episode(2, success=False), episode(1, task="separate")]
    )
    assert [r["task"] for r in rows] == ["reach", "separate"]
    first = rows[0]
    assert {*results.PLANNING_KEYS} <= set(first)
    assert (first["successes"], first["episodes"], first["rate"]) == (1, 2, 0.5)
    low, high = first["interval95"]
    assert 0 < low < 0.5 < high < 1
    assert first["mean_steps_to_success"] == 20
    whole = dict(
        qa=None, planning=rows, action_sensitivity=None, config={}, versions={},
        machine={},
    )  # fmt: skip
    assert results.check(whole) is whole
    with pytest.raises(ValueError, match="lack 'machine'"):
        results.check({k: v for k, v in whole.items() if k != "machine"})
    broken = [{**first, "rate": "half"}]
    with pytest.raises(ValueError, match=r"planning.*0.*rate.*'half', expected float"):
        results.check({**whole, "planning": broken})


def test_json_is_strict_and_whole(tmp_path):
    path = tmp_path / "results.json"
    results.write_json(path, {"a": float("nan"), "b": (1, 2), 3: float("inf")})
    assert json.loads(path.read_text()) == {"a": None, "b": [1, 2], "3": None}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_journal_continues_and_drops_what_a_kill_cut_off(tmp_path):
    demo = configs.preset("demo")
    journal = results.Journal(tmp_path, demo)
    journal.append("episode", vars(episode(6000)))
    journal.append("episode", vars(episode(6001, success=False)))
    text = journal.path.read_text()
    journal.path.write_text(text[:-30])  # a kill in the middle of the last line
    again = results.Journal(tmp_path, demo)
    assert again.episodes() == [episode(6000)]
    again.append("episode", vars(episode(6001)))
    assert results.Journal(tmp_path, demo).episodes() == [episode(6000), episode(6001)]


def test_journal_may_grow_along_the_axes(tmp_path):
    demo = configs.preset("demo", seeds=(1, 2))
    results.Journal(tmp_path, demo).append("episode", vars(episode(1)))
    more = configs.preset("demo", seeds=(1, 2, 3), methods=("cem",), video=False)
    assert results.Journal(tmp_path, more).episodes() == [episode(1)]


def test_journal_of_another_configuration_is_refused(tmp_path):
    demo = configs.preset("demo")
    results.Journal(tmp_path, demo, "model a")
    other = dataclasses.replace(demo, goal="published", execute=7)
    with pytest.raises(UserError) as error:
        results.Journal(tmp_path, other, "model a")
    message = str(error.value)
    assert "goal was 'shaped', is 'published'" in message
    assert "execute was 0, is 7" in message
    assert "choose another --output" in message and "\n" not in message
    with pytest.raises(UserError, match="model was 'model a', is 'model b'"):
        results.Journal(tmp_path, demo, "model b")
    results.Journal(tmp_path, demo)  # a sweep without any model may go on there
    with pytest.raises(UserError, match="model was 'model a'"):
        results.Journal(tmp_path, demo, "model b")


def test_a_model_may_join_a_sweep_that_had_none(tmp_path):
    demo = configs.preset("demo")
    results.Journal(tmp_path, demo).append("episode", vars(episode(1)))
    assert len(results.Journal(tmp_path, demo, "model a").episodes()) == 1
    with pytest.raises(UserError, match="model was 'model a', is 'model b'"):
        results.Journal(tmp_path, demo, "model b")


def test_damaged_journal_is_named(tmp_path):
    demo = configs.preset("demo")
    journal = results.Journal(tmp_path, demo)
    journal.append("episode", vars(episode()))
    lines = journal.path.read_text().splitlines()
    journal.path.write_text("\n".join([lines[0], "{half", lines[1], ""]))
    with pytest.raises(UserError, match=r"journal.jsonl:2 is not JSON"):
        results.Journal(tmp_path, demo)


def test_output_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "taken"
    path.write_text("")
    with pytest.raises(UserError, match=f"cannot write to --output {path}"):
        results.Journal(path, configs.preset("demo"))


def test_other_code_does_not_continue_a_sweep(tmp_path, monkeypatch):
    demo = configs.preset("demo")
    results.Journal(tmp_path, demo).append("episode", vars(episode(1)))
    monkeypatch.setattr(results, "code_fingerprint", lambda: "edited")
    with pytest.raises(UserError, match=r"code was .*, is 'edited'.*--restart"):
        results.Journal(tmp_path, demo)
    assert results.Journal(tmp_path, demo, restart=True).episodes() == []
    assert (tmp_path / "journal.old.jsonl").exists()


@pytest.mark.parametrize(
    "change",
    [{"jax": "0.0.1"}, {"device": "NVIDIA H200"}, {"jax_enable_x64": "True"}],
)
def test_other_conditions_do_not_continue_a_sweep(tmp_path, monkeypatch, change):
    demo = configs.preset("demo")
    results.Journal(tmp_path, demo).append("episode", vars(episode(1)))
    now = conditions.conditions() | change
    monkeypatch.setattr(conditions, "conditions", lambda: now)
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=f"{name} was .*, is '{value}'.*--restart"):
        results.Journal(tmp_path, demo)


def test_the_fingerprint_covers_every_file_of_both_packages():
    root = pathlib.Path(results.__file__).parents[2]
    here = {
        str(path.relative_to(root))
        for package in ("swm_jax", "data_pipelines")
        for kind in ("*.py", "*.model")
        for path in (root / package).rglob(kind)
    }
    found = results.source_files()
    assert set(found) == here
    for name in (
        "data_pipelines/saqa/sampler.py",
        "data_pipelines/sources/lerobot.py",
        "swm_jax/checkpoints/model.py",
        "swm_jax/eval/episodes/device_loop.py",
        "swm_jax/models/assets/tiny.model",
    ):
        assert name in found
        changed = {**found, name: found["swm_jax/__init__.py"]}
        assert results.digest_of(changed) != results.code_fingerprint()
        moved = {f"{path}x" if path == name else path: f for path, f in found.items()}
        assert results.digest_of(moved) != results.code_fingerprint()
    assert results.digest_of(found) == results.code_fingerprint()
