"""Mixtures: shares, truth, scales of actions, and what a checkpoint says of them."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_episodes import board_episode, cube_episode, plain_episode, write

from data_pipelines.batches.config import Data
from data_pipelines.batches.mixture import counts, parse_sources
from data_pipelines.batches.normalise import action_entries, action_statistics
from data_pipelines.batches.stream import make_train_iterator, stored_action_entries
from data_pipelines.saqa.balance import pool_report
from data_pipelines.saqa.batch import SaqaConfig
from data_pipelines.saqa.sampler import SaqaSampler
from data_pipelines.schema.episode import DataError
from data_pipelines.schema.read import load_episodes
from swm_jax import worlds
from swm_jax.models import ActionScale, Tokenizer, get_config
from swm_jax.records import parse

BOARD = worlds.language("board")
CUBE = worlds.language("cube")

MODEL = get_config("tiny", action_size=5, image_size=16, patch_size=8, max_horizon=16)
CONFIG = {"images": 8, "questions": 4, "queries": 10}


@pytest.fixture(scope="module")
def tokens():
    return Tokenizer.load("tiny")


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    policies = ("oracle", "noisy", "random")
    episodes = [board_episode(n, policy=policies[n % 3]) for n in range(14)]
    return write(tmp_path_factory.mktemp("b") / "board", episodes[:12], episodes[12:])


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    episodes = [cube_episode(n, size=32) for n in range(14)]
    return write(tmp_path_factory.mktemp("c") / "cube", episodes[:12], episodes[12:])


@pytest.fixture(scope="module")
def cubes(cube):
    return SaqaSampler(load_episodes(cube), SaqaConfig())


def stream(directory, tokens, model=MODEL, **changes):
    config = parse(Data, {**CONFIG, **changes}, "config.data")
    return make_train_iterator(directory, config, tokens, model, seed=0)


@given(
    st.lists(st.floats(0.1, 5), min_size=1, max_size=4),
    st.integers(0, 50),
    st.integers(1, 40),
)
def test_every_batch_has_each_source_at_its_share_up_to_one_image(
    weights, step, images
):
    given_, order = counts(weights, 3, step, images)
    assert given_.sum() == images
    wanted = images * np.array(weights) / np.sum(weights)
    assert np.abs(given_ - wanted).max() < 1 + 1e-6
    assert sorted(order) == list(range(images))


def test_shares_hold_on_average():
    seen = np.mean([counts((3, 1, 4), 0, step, 6)[0] for step in range(4000)], 0)
    np.testing.assert_allclose(seen / 6, np.array([3, 1, 4]) / 8, atol=0.01)


def test_a_source_gives_the_episodes_of_its_policies_alone(board, tokens):
    sources = (
        {"dir": str(board), "policies": ("oracle",), "weight": 3.0},
        {"dir": str(board), "policies": ("noisy", "random"), "weight": 1.0},
    )
    kinds = {n: ("oracle", "noisy", "random")[n % 3] for n in range(12)}
    model = get_config("tiny", image_size=16, patch_size=8)
    batches = stream(sources, tokens, model)
    seen = [
        kinds[int(image[0, 0, 0])] for _ in range(12) for image in next(batches).image
    ]
    assert 0.65 < np.mean([kind == "oracle" for kind in seen]) < 0.85
    assert {"noisy", "random"} <= set(seen)


def test_a_host_gets_its_rows_of_the_global_batch_of_a_mixture(board, cube, tokens):
    sources = [str(board), {"dir": str(cube), "weight": 2.0}]
    words = Tokenizer.load("board_cube")
    config = Data(**CONFIG)
    whole, half = (
        next(make_train_iterator(sources, config, words, MODEL, seed=0, rows=rows))
        for rows in (None, [1, 4, 5])
    )
    second = jax.tree.map(lambda x: x[[1, 4, 5]], whole)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, half, second)))


def test_one_batch_has_both_domains_padded_to_common_widths(board, cube):
    words = Tokenizer.load("board_cube")
    sources = [str(board), str(cube)]
    batches = stream(sources, words)
    for batch in (next(batches) for _ in range(3)):
        assert batch.image.shape == (8, 16, 16, 3)
        assert batch.actions.shape == (8, 16, 5)
        # Frames of the cubes' episodes are marked with numbers from 100 on.
        on_cube = batch.image[:, 0, 0, 0] >= 100
        assert on_cube.sum() == 4
        kinds = batch.query_type
        real = batch.answer_mask[..., 0]
        assert set(kinds[on_cube][real[on_cube]].tolist()) <= set(CUBE.by_id)
        assert set(kinds[~on_cube][real[~on_cube]].tolist()) <= set(BOARD.by_id)
        assert not batch.actions[~on_cube][..., 2:].any()
        assert batch.actions[on_cube][..., 2:].any()
        assert not batch.places.mask[on_cube].any()


def test_cube_answers_are_those_of_the_predicates(cubes):
    """The sampler by slots against the grammar's questions, by names."""
    seen = set()
    for step in range(20):
        batch = cubes.sample_batch(0, step, 8, 4, 10)
        args = np.take_along_axis(batch.args, batch.query_question[..., None], 1)
        now = cubes.episodes.scene(batch.episode[:, None], batch.t[:, None])
        later = cubes.episodes.scene(
            batch.episode[:, None], batch.t[:, None] + batch.query_horizon
        )
        margin = np.asarray(CUBE.margin(batch.query_type, args, now, later))
        valid = batch.query_valid
        np.testing.assert_allclose(margin[valid], batch.query_margin[valid], atol=1e-5)
        np.testing.assert_array_equal(margin[valid] > 0, batch.query_answer[valid] > 0)
        seen |= {
            (CUBE.kind(int(k)).name, int(a))
            for k, a in zip(batch.query_type[valid], batch.query_answer[valid])
        }
        changes = [kind.id for kind in CUBE.types if kind.about_change]
        change = np.isin(batch.query_type, changes)
        assert (batch.query_horizon[change & valid] > 0).all()
    assert {("cube_grasped", 1), ("cube_on_top", 1), ("cubes_touching", 0)} <= seen
    assert "cube_on_top" in pool_report(cubes, 4, 10)


def test_rare_cube_answers_are_asked_far_more_often_than_they_occur(cubes):
    """Rare as "on top" is among all questions, half of its answers are yes."""
    kind = CUBE.kind("cube_on_top").id
    answers = []
    for step in range(40):
        batch = cubes.sample_batch(0, step, 8, 4, 10)
        mine = batch.query_valid & (batch.query_type == kind)
        answers += batch.query_answer[mine].tolist()
    assert len(answers) > 50 and 0.3 < np.mean(answers) < 0.7


def test_quantile_scale_brings_the_quantiles_to_one(board):
    episodes = load_episodes(board)
    entry = action_entries([episodes], "quantile")["board"]
    scale = ActionScale.make(entry, 2, 5)
    raw = episodes.inside()
    scaled = scale(raw)
    assert scaled.shape == (len(raw), 5) and not scaled[:, 2:].any()
    low, high = np.quantile(scaled[:, :2], [0.01, 0.99], axis=0)
    np.testing.assert_allclose(low, -1, atol=1e-3)
    np.testing.assert_allclose(high, 1, atol=1e-3)
    np.testing.assert_allclose(
        scaled[:, :2] * scale.half + scale.middle, raw, atol=1e-6
    )


def test_action_that_never_changes_is_not_blown_up():
    scale = ActionScale.make({"kind": "quantile", "low": [2.0], "high": [2.0]}, 1, 1)
    assert float(scale(np.array([2.5], np.float32))[0]) == 0.5


def test_batches_hold_scaled_actions_of_each_domain(board, cube):
    words = Tokenizer.load("board_cube")
    sources = [str(board), str(cube)]
    raw, scaled = (
        next(stream(sources, words, actions=kind)) for kind in ("raw", "quantile")
    )
    np.testing.assert_array_equal(raw.image, scaled.image)
    entries = stored_action_entries(sources, "quantile")
    assert set(entries) == {"board", "cube"}
    on_cube = raw.image[:, 0, 0, 0] >= 100
    for domain, rows, size in (("board", ~on_cube, 2), ("cube", on_cube, 5)):
        entry = entries[domain]
        low, high = np.array(entry["low"]), np.array(entry["high"])
        wanted = 2 * (raw.actions[rows][..., :size] - low) / (high - low) - 1
        np.testing.assert_allclose(
            scaled.actions[rows][..., :size], wanted, rtol=1e-4, atol=1e-4
        )


def test_statistics_are_those_of_the_actions_without_padding(board):
    episodes = load_episodes(board)
    every = np.concatenate(
        [episodes.action[i, :n] for i, n in enumerate(episodes.length)]
    )
    told = action_statistics(episodes.inside())
    np.testing.assert_allclose(told["mean"], every.mean(0), atol=1e-7)
    np.testing.assert_allclose(told["max"], every.max(0))


@pytest.mark.parametrize(
    "value, match",
    [
        (({"dir": "a", "wieght": 2},), "unknown field 'wieght'"),
        (({"weight": 2},), "no dir"),
        (({"dir": "a", "weight": 0},), "at least one above 0"),
        ((), "at least one above 0"),
    ],
)
def test_sources_that_cannot_work_are_refused(value, match):
    with pytest.raises(DataError, match=match):
        parse_sources(value)


def test_actions_wider_than_the_models_are_refused(cube, tokens):
    with pytest.raises(DataError, match="5 numbers, the model takes 2"):
        stream(str(cube), tokens, get_config("tiny", image_size=16, patch_size=8))


def test_policy_that_nobody_had_is_refused(board, tokens):
    sources = ({"dir": str(board), "policies": ("genius",)},)
    with pytest.raises(DataError, match="no episode of genius; it has noisy"):
        stream(sources, tokens)


def test_damage_is_skipped_by_config_and_told(board, tokens, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(board, tmp_path / "copy")
    next(copy.glob("*train*00001-of-00003")).unlink()
    with pytest.raises(DataError, match="is missing"):
        stream(str(copy), tokens)
    next(stream(str(copy), tokens, on_damage="skip"))
    assert "skipped 4 damaged train episodes" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"config\.data\.on_damage 'ignore'; known"):
        stream(str(copy), tokens, on_damage="ignore")


def test_episodes_without_scene_or_labels_say_how_to_get_some(tmp_path, tokens):
    data = write(tmp_path / "d", [plain_episode(n) for n in range(4)], [])
    with pytest.raises(DataError, match=r"python -m data_pipelines\.label"):
        stream(str(data), tokens)


def test_question_types_are_those_of_each_world(cubes):
    """One list serves a mixture: each source takes what its world knows."""
    asked = lambda *names: [
        kind.name for kind in SaqaSampler(cubes.episodes, SaqaConfig(types=names)).types
    ]
    named = asked("peg_distance", "cube_grasped", "cube_lifted")
    assert named == ["cube_grasped", "cube_lifted"]
    assert asked("peg_distance") == [kind.name for kind in CUBE.select()]
    with pytest.raises(
        ValueError, match=r"'cube_grabbed'.*did you mean 'cube_grasped'"
    ):
        SaqaConfig(types=("cube_grabbed",))
