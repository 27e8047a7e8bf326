"""Batches made on the device: true to the poses, and drawn like the host's."""

import dataclasses

import jax
import numpy as np
import pytest
from test_saqa import play

from data_pipelines.batches.config import Data, Simulated
from data_pipelines.saqa import device_batches as device_saqa
from data_pipelines.saqa.batch import SaqaConfig
from data_pipelines.saqa.horizons import Horizons
from data_pipelines.saqa.sampler import SaqaSampler
from swm_jax import worlds
from swm_jax.models import Tokenizer, get_config
from swm_jax.worlds.board.render.device import render
from swm_jax.worlds.board.scene import Scene

BOARD = worlds.language("board")
CONFIG = Data(images=16, questions=12, queries=36, simulated=Simulated(supersample=1))
SIZE = 16


@pytest.fixture(scope="module")
def host():
    return SaqaSampler(play())


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("tiny")


def device_batches(host, tokenizer, seed=0, rows=None, config=CONFIG):
    model_config = get_config("tiny", image_size=SIZE, patch_size=8)
    return device_saqa.DeviceBatches.make(
        host.episodes, config, tokenizer, model_config, seed=seed, rows=rows
    )


@pytest.fixture(scope="module")
def sample(host, tokenizer):
    return device_batches(host, tokenizer)


@pytest.fixture(scope="module")
def batches(sample):
    return [jax.device_get(sample(step)) for step in range(60)]


def starts(host, batch):
    """(episode, t) of every image, found by an action; some are zero, none is twice."""
    action, length = host.episodes.action, host.episodes.length
    for actions in batch.actions:
        moved = int(np.abs(actions).sum(-1).argmax())
        (e,), (t,) = np.nonzero((action == actions[moved]).all(-1))
        t = t - moved
        inside = min(len(actions), length[e] - t)
        np.testing.assert_array_equal(actions[:inside], action[e, t : t + inside])
        assert not actions[inside:].any()
        yield e, t, inside


def scene_at(host, e, t):
    episodes = host.episodes
    return Scene(episodes.block_pose[e, t], episodes.block_id[e], episodes.peg[e, t])


def test_a_batch_is_a_function_of_seed_and_step(host, tokenizer, sample, batches):
    again = jax.device_get(next(sample.stream(3)))
    jax.tree.map(np.testing.assert_array_equal, again, batches[3])
    # Another host's rows are rows of the same batch; another seed is another stream.
    rows = device_batches(host, tokenizer, rows=[2, 3, 11])
    part = jax.tree.map(lambda x: x[[2, 3, 11]], again)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(rows(3)), part)
    other = dataclasses.replace(sample, seed=1)(3)
    assert (jax.device_get(other).actions != again.actions).any()


def test_a_batch_can_be_described(host, sample, batches):
    numbers = np.arange(len(host.episodes.length)) + 100  # of the data set
    host.episodes.episode = numbers
    expected = [(numbers[e], t) for e, t, _ in starts(host, batches[5])]
    found = [(row["episode"], row["t"]) for row in sample.examples(5)]
    assert found == expected


def test_answers_are_those_of_the_predicates_and_never_beyond_the_end(
    host, tokenizer, batches
):
    """The words are read back, so tokens, names, twins and places are all checked."""
    (yes,) = tokenizer.encode("yes")
    asked = 0
    for batch in batches[:8]:
        for b, (e, t, room) in enumerate(starts(host, batch)):
            for r in np.flatnonzero(batch.answer_mask[b].any(-1)):
                q, h = batch.query_question[b, r], batch.query_horizon[b, r]
                assert 0 <= h <= room
                tokens = batch.question_tokens[b, q][batch.question_mask[b, q]]
                question = BOARD.parse(tokenizer.decode(tokens.tolist()))
                assert question.type_id == batch.query_type[b, r]
                assert h > 0 or not question.kind.about_change
                kind, args = np.array(question.type_id), np.array(question.args)
                now, then = scene_at(host, e, t), scene_at(host, e, t + h)
                margin = BOARD.margin(kind, args, now, then)
                assert (batch.answer_tokens[b, r, 0] == yes) == (margin > 0)
                place, has = BOARD.places(kind, args, then)
                np.testing.assert_array_equal(batch.places.mask[b, r], has)
                np.testing.assert_allclose(
                    batch.places.place[b, r][has], place[has], atol=1e-6
                )
                asked += 1
    assert asked > 0.9 * 8 * CONFIG.images * CONFIG.queries


def test_images_show_the_start(host, batches):
    for b, (e, t, _) in enumerate(starts(host, batches[0])):
        expected = render(scene_at(host, e, t), SIZE, SIZE, supersample=1).astype(int)
        assert abs(batches[0].image[b] - expected).max() <= 1


def cells(rows):
    """Share of queries by [type, bucket, answer]."""
    count = np.zeros((len(BOARD.select()), len(Horizons().ends), 2))
    for kind, horizon, answer in rows:
        np.add.at(count, (kind, Horizons().bucket[horizon], answer), 1)
    return count / count.sum()


def test_cells_are_filled_like_the_host_s(host, tokenizer, batches):
    (yes,) = tokenizer.encode("yes")
    ours, theirs = [], []
    for step, batch in enumerate(batches):
        valid = batch.answer_mask.any(-1)
        answer = (batch.answer_tokens[..., 0] == yes).astype(int)
        columns = (batch.query_type, batch.query_horizon, answer)
        ours.append(tuple(x[valid] for x in columns))
        drawn = host.sample_batch(7, step, 16, 12, 36)
        columns = (drawn.query_type, drawn.query_horizon, drawn.query_answer)
        theirs.append(tuple(x[drawn.query_valid] for x in columns))
    ours, theirs = cells(ours), cells(theirs)
    # About 350 queries a cell on either side: 3 standard deviations are 1.2 of 5 %.
    assert abs(ours - theirs).sum() < 0.12
    filled = theirs > 0.002
    ratio = ours[filled] / theirs[filled]
    assert ratio.min() > 0.7 and ratio.max() < 1.4
    assert ours[:, :, 1].sum() == pytest.approx(0.5, abs=0.03)


def test_the_same_query_is_never_asked_twice_of_an_image(batches):
    for batch in batches[:10]:
        for b in range(CONFIG.images):
            valid = batch.answer_mask[b].any(-1)
            pairs = np.stack([batch.query_question[b], batch.query_horizon[b]], -1)
            pairs = pairs[valid]
            assert len(np.unique(pairs, axis=0)) == len(pairs)


def test_numbers_are_drawn_on_the_device_as_on_the_host(host, tokenizer):
    """Words and answers are read back; the bins are filled like the host's."""
    names = ("peg_distance", "block_moved_distance")
    config = dataclasses.replace(CONFIG, saqa=SaqaConfig(types=names))
    sample = device_batches(host, tokenizer, config=config)
    shares, checked = {name: ([], []) for name in names}, 0
    for step in range(30):
        batch = jax.device_get(sample(step))
        for b, (e, t, _) in enumerate(starts(host, batch)):
            for r in np.flatnonzero(batch.answer_mask[b].any(-1)):
                q, h = batch.query_question[b, r], batch.query_horizon[b, r]
                tokens = batch.question_tokens[b, q][batch.question_mask[b, q]]
                question = BOARD.parse(tokenizer.decode(tokens.tolist()))
                said = tokenizer.decode(batch.answer_tokens[b, r].tolist())
                index = question.answers.index(said)
                shares[question.type][0].append(index)
                if step < 2:
                    scenes = scene_at(host, e, t), scene_at(host, e, t + h)
                    kind, args = np.array(question.type_id), np.array(question.args)
                    assert index == BOARD.answer(kind, args, *scenes)
                    checked += 1
        drawn = sample.sampler.sample_batch(7, step, 16, 12, 36)
        for i in BOARD.by_id:
            mine = drawn.query_valid & (drawn.query_type == i)
            if mine.any():
                shares[BOARD.kind(i).name][1].extend(drawn.query_answer[mine])
    assert checked > 500
    for name, pair in shares.items():
        count = len(BOARD.kind(name).answers)
        ours, theirs = (np.bincount(x, minlength=count) / len(x) for x in pair)
        assert abs(ours - theirs).sum() < 0.15, name
