"""Batches of several chunks per image: branches of one start, labelled by the rules."""

import dataclasses

import jax
import numpy as np
import pytest

from data_pipelines.batches.config import Data, Simulated
from data_pipelines.generate.pose_cache import simulated_episodes
from data_pipelines.saqa.branches import BranchBatches
from data_pipelines.schema.episode import DataError
from experiments import generate_board
from swm_jax import worlds
from swm_jax.models import Tokenizer, get_config
from swm_jax.models.objects import UNIT

BOARD = worlds.load("board")
BRANCHES, H = 4, 4
MODEL = get_config(
    "tiny",
    image_size=16,
    patch_size=8,
    max_horizon=H,
    objects=9,
    object_origin=(0.375, 0.0),
)


def generation():
    config = generate_board.get_config("branches")
    config.episodes, config.episodes_per_shard, config.val_share = 48, 48, 0.25
    config.branches, config.lead = BRANCHES, 3
    config.min_steps = config.max_steps = H
    config.backend = "mujoco"
    return config


CONFIG = Data(
    source="simulated",
    dir="poses.npz",
    images=6,
    questions=4,
    queries=36,
    simulated=Simulated(generation().to_dict(), supersample=1, chunks=3),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("branches") / "poses.npz"


@pytest.fixture(scope="module")
def episodes(path):
    return simulated_episodes(generation(), path, "train")


def make(episodes, config=CONFIG, seed=0, **options):
    tokenizer = Tokenizer.load("tiny")
    return BranchBatches.make(episodes, config, tokenizer, MODEL, seed=seed, **options)


@pytest.fixture(scope="module")
def stream(episodes):
    return make(episodes)


@pytest.fixture(scope="module")
def batches(stream):
    return [jax.device_get(stream(step)) for step in range(12)]


def test_branches_begin_alike_and_end_differently(episodes):
    pose = episodes.block_pose.reshape(-1, BRANCHES, H + 1, 8, 3)
    peg = episodes.peg.reshape(-1, BRANCHES, H + 1, 2)
    assert (pose[:, :, 0] == pose[:, :1, 0]).all()
    assert (peg[:, :, 0] == peg[:, :1, 0]).all()
    last = peg[:, :, -1]
    apart = np.linalg.norm(last[:, :, None] - last[:, None], axis=-1)
    assert (apart[:, *np.triu_indices(BRANCHES, 1)] > 1e-4).mean() > 0.95


def test_the_lead_moves_the_starts(episodes, tmp_path):
    config = generation()
    config.lead = 0
    plain = simulated_episodes(config, tmp_path / "plain.npz", "train")
    moved = np.linalg.norm(plain.peg[:, 0] - episodes.peg[:, 0], axis=-1)
    assert 0.2 < (moved > 1e-4).mean() < 1.0  # nine starts, by none to three steps


def scenes_of(stream, episodes, step):
    """Rows of the branches of a batch, its scenes now and after every horizon."""
    rows = np.array([row["episodes"] for row in stream.examples(step)])
    state = lambda rows, frames: BOARD.scene.kind(
        block_pose=episodes.block_pose[rows, frames],
        peg=episodes.peg[rows, frames],
        block_id=episodes.block_id[rows],
    )
    return rows, state


def test_answers_are_those_of_the_rules(stream, batches, episodes):
    """Every kept answer, asked of the language's own parser and margin."""
    tokenizer, checked = stream_tokenizer(), 0
    for step, batch in enumerate(batches[:4]):
        rows, state = scenes_of(stream, episodes, step)
        for b, n, g, q in np.ndindex(6, 3, 3, 4):
            r = np.ravel_multi_index((n, g, q), (3, 3, 4))
            if not batch.answer_mask[b, r].any():
                continue
            text = tokenizer.decode(batch.question_tokens[b, q].tolist())
            asked = BOARD.language.parse(text)
            assert batch.query_type[b, r] == asked.type_id
            assert batch.query_question[b, r] == q
            h = batch.horizons[b, g]
            assert batch.query_horizon[b, r] == h
            row = rows[b, n]
            margin = BOARD.language.margin(
                asked.type_id, np.array(asked.args), state(row, 0), state(row, h)
            )
            said = tokenizer.decode(batch.answer_tokens[b, r].tolist())
            if abs(margin) > 1e-5:
                assert said == ("yes" if margin > 0 else "no")
                checked += 1
    assert checked > 40


def stream_tokenizer():
    return Tokenizer.load("tiny")


def test_targets_are_the_poses(stream, batches, episodes):
    for step, batch in enumerate(batches[:4]):
        rows, _ = scenes_of(stream, episodes, step)
        np.testing.assert_array_equal(batch.actions, episodes.action[rows])
        now = episodes.block_pose[rows[:, 0], 0]
        place = batch.objects.state[:, 1:, :2] * UNIT + np.array([0.375, 0.0])
        np.testing.assert_allclose(place, now[..., :2], atol=1e-6)
        np.testing.assert_allclose(
            batch.objects.state[:, 1:, 2], np.cos(now[..., 2]), atol=1e-6
        )
        for g in range(3):
            h = batch.horizons[:, g, None]
            after = episodes.block_pose[rows, h]
            moved = after[..., :2] - now[:, None, :, :2]
            np.testing.assert_allclose(
                batch.futures.moved[:, :, g, 1:], moved, atol=1e-6
            )
            peg = episodes.peg[rows, h] - episodes.peg[rows, 0]
            np.testing.assert_allclose(batch.futures.moved[:, :, g, 0], peg, atol=1e-6)
            turned = after[..., 2] - now[:, None, :, 2]
            wrapped = (turned + np.pi) % (2 * np.pi) - np.pi
            np.testing.assert_allclose(
                batch.futures.turned[:, :, g, 1:], wrapped, atol=1e-5
            )


def test_types_and_their_answers_weigh_alike(batches):
    types = np.concatenate([b.query_type.ravel() for b in batches])
    weight = np.concatenate([b.query_weight.ravel() for b in batches])
    said = np.concatenate([b.answer_tokens[..., 0].ravel() for b in batches])
    yes = stream_tokenizer().encode("yes")[0]
    kinds = np.unique(types)
    assert len(kinds) == len(BOARD.language.select())
    total = np.array([weight[types == kind].sum() for kind in kinds])
    assert total.min() > 0.3 * total.mean()  # a batch has 24 questions of 12 types
    share = [weight[(types == k) & (said == yes)].sum() for k in kinds] / total
    plain = np.array([(said[types == kind] == yes).mean() for kind in kinds])
    share, plain = share[plain > 0], plain[plain > 0]  # no block moves 4 cm in 4 steps
    assert len(share) > 6 and share.min() > 0.2 and share.max() < 0.75
    assert np.abs(share - 0.5).mean() < np.abs(plain - 0.5).mean()
    np.testing.assert_allclose(weight.mean(), 1.0, rtol=1e-5)
    horizon = np.concatenate([b.query_horizon.ravel() for b in batches])
    change = np.array([BOARD.language.by_id[kind].about_change for kind in types])
    np.testing.assert_array_equal(weight == 0, change & (horizon == 0))


def test_horizons_are_mostly_the_planners(batches):
    horizons = np.concatenate([b.horizons for b in batches])
    planners = (horizons == (0, H // 2, H)).all(-1)
    assert 0.5 < planners.mean() < 1.0
    assert horizons.min() >= 0 and horizons.max() == H


def test_a_batch_is_a_function_of_seed_and_step(stream, batches, episodes):
    again = make(episodes)
    jax.tree.map(np.testing.assert_array_equal, batches[3], again(3))
    other = make(episodes, seed=1)(3)
    assert not np.array_equal(other.actions, batches[3].actions)


def test_a_host_builds_its_own_rows(batches, episodes):
    rows = np.array([4, 1])
    mine = jax.device_get(make(episodes, rows=rows)(5))
    whole = jax.tree.map(lambda x: x[rows], batches[5])
    for name in ("actions", "question_tokens", "answer_tokens", "horizons", "image"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(whole, name))


def test_episodes_of_another_length_are_refused(episodes):
    short = dataclasses.replace(episodes, action=episodes.action[:, : H - 1])
    with pytest.raises(DataError, match="branches need chunks of 4 actions"):
        make(short)


def test_more_chunks_than_branches_are_refused():
    with pytest.raises(ValueError, match="chunks is 5, expected at most the 4"):
        Data(
            source="simulated",
            dir="poses.npz",
            simulated=Simulated(generation().to_dict(), chunks=5),
        )


def test_episodes_that_are_no_multiple_of_the_branches_are_refused(tmp_path):
    config = generation()
    config.episodes = 47
    with pytest.raises(DataError, match="episodes is 47, expected a multiple of"):
        simulated_episodes(config, tmp_path / "x.npz", "train")
