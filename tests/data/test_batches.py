"""Grain batches: what they say is true, and the stream is a function of (seed, step).

Episodes here are random walks without physics; the first two pixel rows of a frame
hold its episode's number and its time, so that a batch tells where it came from.
"""

import dataclasses
import json
import shutil

import grain
import hypothesis
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import strategies as st

from data_pipelines.batches.config import Data
from data_pipelines.batches.stream import StepBatches, make_train_iterator
from data_pipelines.describe.summary import describe
from data_pipelines.schema import store as folder
from data_pipelines.schema.episode import DataError, Episode, encode_png
from data_pipelines.schema.features import Schema
from data_pipelines.schema.read import load_episodes, read_episodes
from swm_jax import worlds
from swm_jax.models import PAD_TOKEN, Tokenizer, get_config
from swm_jax.worlds.board.scene import BLOCK_SETS, Scene

BOARD = worlds.language("board")

SIZE = 16
MODEL = get_config("tiny")
TOKENS = Tokenizer.load("tiny")
CONFIG = Data(images=6, questions=5, queries=14)


def frame(number: int, t: int) -> np.ndarray:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[0], image[1] = number, t
    return image


def random_walk(number: int, steps: int) -> Episode:
    rng = np.random.default_rng(number)
    start = rng.uniform((0.2, -0.2), (0.5, 0.2), (9, 2))
    path = start + np.cumsum(rng.normal(0, 0.01, (steps + 1, 9, 2)), 0)
    pose = np.concatenate([path[:, :8], np.zeros((steps + 1, 8, 1))], -1)
    peg = path[:, 8]
    return Episode(
        image=[encode_png(frame(number, t)) for t in range(steps + 1)],
        action=np.diff(peg, axis=0).astype(np.float32),
        state={
            "block_pose": pose.astype(np.float32),
            "peg": peg.astype(np.float32),
            "block_id": np.array(BLOCK_SETS["standard"], np.int32),
        },
        policy="random",
        seed=0,
        episode=number,
    )


def write_data(directory, train=8, val=3, steps=(20, 26)) -> None:
    directory.mkdir()
    splits = {"train": range(train), "val": range(train, train + val)}
    shards = folder.make_shards(directory, splits, 4)
    for shard in shards:
        episodes = [random_walk(n, steps[n % len(steps)]) for n in shard.numbers]
        folder.write_shard(shard.path, episodes, Schema.of(episodes[0]))
    sizes = [len(shard.numbers) for shard in shards]
    schema = Schema.of(episodes[0])
    folder.write_info(shards, sizes, schema, "random walks")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("walks") / "data"
    write_data(directory)
    return directory


@pytest.fixture
def copy(data, tmp_path):
    return shutil.copytree(data, tmp_path / "copy")


@pytest.fixture(scope="module")
def step_batches(data):
    """Measured once: balancing the answers is most of what a stream costs."""
    return StepBatches.make(data, CONFIG, TOKENS, MODEL, seed=0)


def stream(data, config=CONFIG, **arguments):
    arguments = {"seed": 0, **arguments}
    return make_train_iterator(data, config, TOKENS, MODEL, **arguments)


def same(left, right) -> bool:
    equal = jax.tree.map(np.array_equal, left, right)
    return all(jax.tree.leaves(equal))


def test_every_answer_is_true_of_the_frames_it_is_about(data, step_batches):
    episodes = {e.episode: e for e in read_episodes(data, "train")}
    batches = step_batches.stream(0)
    checked = 0
    for batch in (next(batches) for _ in range(4)):
        for b, r in np.argwhere(batch.answer_mask[..., 0]):
            number, t = batch.image[b, 0, 0, 0], batch.image[b, 1, 0, 0]
            question = BOARD.parse(
                TOKENS.decode(batch.question_tokens[b, batch.query_question[b, r]])
            )
            episode = episodes[number]
            later = int(t) + batch.query_horizon[b, r]
            scenes = [_scene(episode, frame) for frame in (int(t), int(later))]
            index = question.type_id
            truth = BOARD.answer(
                np.int32(index), np.array(question.args, np.int32), *scenes
            )
            q = batch.query_question[b, r]
            real = batch.question_tokens[b, q] != PAD_TOKEN
            np.testing.assert_array_equal(batch.question_mask[b, q], real)
            said = TOKENS.decode(batch.answer_tokens[b, r])
            expected = question.answers[int(truth)]
            assert expected == said, (question.text, number, t, later)
            assert batch.query_type[b, r] == index
            places = [_place(scenes[1], block) for block in question.blocks]
            mask = batch.places.mask[b, r]
            np.testing.assert_array_equal(
                batch.places.place[b, r][mask], [*places, scenes[1].peg]
            )
            checked += 1
    assert checked > 200


def _place(scene, block):
    return scene.block_pose[list(scene.block_id).index(block), :2]


def _scene(episode, t):
    state = episode.state
    return Scene(state["block_pose"][t], state["block_id"], state["peg"][t])


def test_actions_of_a_batch_are_those_that_follow_its_frame(data, step_batches):
    episodes = {e.episode: e for e in read_episodes(data, "train")}
    batch = step_batches(0)
    for b in range(CONFIG.images):
        episode = episodes[batch.image[b, 0, 0, 0]]
        t = int(batch.image[b, 1, 0, 0])
        follow = episode.action[t : t + MODEL.max_horizon]
        np.testing.assert_array_equal(batch.actions[b, : len(follow)], follow)
        assert not batch.actions[b, len(follow) :].any()
        asked = batch.query_horizon[b][batch.answer_mask[b, :, 0]]
        assert asked.max() <= len(episode) - t


def test_stream_after_a_resume_is_the_same(data, step_batches):
    first = step_batches.stream(0)
    batches = [next(first) for _ in range(5)]
    state = json.loads(json.dumps(_plain(first.get_state())))
    after = [next(first) for _ in range(2)]
    assert same(next(step_batches.stream(3)), batches[3])
    resumed = stream(data)  # measured anew, as after a restart
    resumed.set_state(state)
    assert same([next(resumed) for _ in range(2)], after)


def _plain(state):
    return {key: int(value) for key, value in state.items()}


def test_stream_state_goes_through_an_orbax_checkpoint(step_batches, tmp_path):
    saved = step_batches.stream(0)
    next(saved)
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        item = grain.checkpoint.CheckpointSave(saved)
        manager.save(1, args=ocp.args.Composite(data=item))
        manager.wait_until_finished()
        other = step_batches.stream(0)
        item = grain.checkpoint.CheckpointRestore(other)
        manager.restore(1, args=ocp.args.Composite(data=item))
    assert same(next(other), next(saved))


@pytest.mark.parametrize("settings", [{"threads": 4}, {"prefetch": 0}])
def test_stream_does_not_depend_on_threads(data, step_batches, settings):
    other = dataclasses.replace(CONFIG, **settings)
    left, right = step_batches.stream(0), stream(data, other)
    assert same([next(left) for _ in range(6)], [next(right) for _ in range(6)])


def test_hosts_get_rows_of_one_global_batch(data, step_batches):
    whole = step_batches(7)
    rows = ([0, 3], [1, 4], [2, 5])
    host = lambda some: dataclasses.replace(step_batches, rows=np.array(some))
    parts = [next(stream(data, start_step=7, rows=rows[0]))]
    parts += [host(some)(7) for some in rows[1:]]
    assert parts[0].image.shape[0] == 2
    for part, some in zip(parts, rows):
        assert same(jax.tree.map(lambda x, i=some: x[i], whole), part)


def test_seeds_and_splits_give_other_streams(data, step_batches):
    base = step_batches(0)
    assert not same(base, next(stream(data, seed=1)))
    val = next(stream(data, split="val"))
    assert set(base.image[:, 0, 0, 0]) <= set(range(8))
    assert set(val.image[:, 0, 0, 0]) <= set(range(8, 11))


def test_end_token_is_trained_when_asked(data):
    config = dataclasses.replace(CONFIG, answer_eos=True)
    batch = next(stream(data, config))
    real = batch.answer_mask[..., 0]
    assert batch.answer_tokens.shape[-1] == 2
    assert (batch.answer_tokens[real][:, 1] == TOKENS.eos_id).all()
    assert (batch.answer_mask[..., 1] == real).all()


def test_a_batch_can_be_described(step_batches):
    batch, rows = step_batches(3), step_batches.examples(3)
    assert len(rows) == CONFIG.images
    for image, row in zip(batch.image, rows):
        np.testing.assert_array_equal(image, frame(row["episode"], row["t"]))


def test_loaded_frames_are_the_stored_ones(data):
    episodes = load_episodes(data, "train")
    assert len(episodes) == 8 and episodes.episode.tolist() == list(range(8))
    for i, t in [(0, 0), (3, 26), (7, 11)]:
        np.testing.assert_array_equal(episodes.image(i, t), frame(i, t))
    assert episodes.scene([0, 1], 2).peg.shape == (2, 2)
    assert "8 episodes, 192 frames" in describe(episodes)


@hypothesis.given(st.integers(0, 7), st.integers(0, 25), st.integers(1, 30))
def test_chunks_end_with_their_episode(data, i, t, steps):
    episodes = _loaded(data)
    t = min(t, int(episodes.length[i]))
    chunk = episodes.chunk(np.array([i]), np.array([t]), steps)[0]
    stored = random_walk(i, int(episodes.length[i])).action[t : t + steps]
    np.testing.assert_array_equal(chunk[: len(stored)], stored)
    assert not chunk[len(stored) :].any()


def _loaded(data, cache={}):  # noqa: B006  (one load for all examples)
    return cache.setdefault(data, load_episodes(data, "train"))


def refused(match, data, **arguments):
    with pytest.raises(DataError, match=match) as caught:
        stream(data, **arguments)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_folders_are_refused(tmp_path):
    refused("no data set at .*nowhere: make it with", tmp_path / "nowhere")
    refused("is empty: make it with", tmp_path)


def test_unfinished_folder_is_refused(copy):
    (copy / "dataset_info.json").unlink()
    refused("no dataset_info.json: its generation was not finished", copy)


def test_damaged_metadata_is_refused(copy):
    (copy / "dataset_info.json").write_text('{"name": "bo')
    refused("metadata is damaged", copy)


@pytest.mark.parametrize("keep", [0, 5000, 100_000])
def test_truncated_shard_is_refused(copy, keep):
    shard = copy / "board-train.array_record-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:keep])
    refused("00001-of-00002 (is damaged|holds 0 readable records)", copy)


def test_flipped_byte_is_found(copy):
    shard = copy / "board-val.array_record-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[3000] ^= 0xFF
    shard.write_bytes(content)
    refused("val.array_record-00000-of-00001 is damaged", copy, split="val")


def test_missing_shard_is_refused(copy):
    (copy / "board-train.array_record-00000-of-00002").unlink()
    refused("00000-of-00002 is missing", copy)


def test_other_schema_version_is_refused(copy):
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace('"2.0.0"', '"9.0.0"'))
    refused("schema version 9.0.0, this code reads 1.0.0 and 2.0.0", copy)


def test_unknown_split_is_refused(data):
    refused("no split 'test'; it has train, val", data, split="test")


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="expected the file of poses"):
        Data(source="simulated", dir=(("data/board", 1.0),))
    with pytest.raises(ValueError, match="3 queries cannot cover 9 questions"):
        Data(images=4, questions=9, queries=3)


@pytest.mark.parametrize(
    "png, match",
    [
        (encode_png(frame(0, 1))[:40], "episode 0: frame 1 cannot be decoded"),
        (encode_png(frame(0, 1)[:8]), "frame 1 has shape .8, 16, 3., expected"),
    ],
)
def test_frame_that_is_no_picture_of_the_right_size_is_named(
    tmp_path, png, match, monkeypatch
):
    monkeypatch.setattr(Schema, "check", lambda *_: None)  # as others write
    episode = random_walk(0, 20)
    episode.image[1] = png
    shards = folder.make_shards(tmp_path, {"train": (0,), "val": (1,)}, 1)
    schema = Schema.of(episode)
    for shard, content in zip(shards, (episode, random_walk(1, 20))):
        folder.write_shard(shard.path, [content], schema)
    folder.write_info(shards, [1, 1], schema, "one bad frame")
    refused(match, tmp_path)


def test_too_few_episodes_are_refused(tmp_path):
    write_data(tmp_path / "few", train=1, val=1, steps=(2,))
    refused("longest of 1 train episodes has 2 actions", tmp_path / "few")
