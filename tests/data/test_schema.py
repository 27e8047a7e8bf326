"""The schema: every domain goes through a folder unchanged; broken ones do not."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from stored_episodes import board_episode, cube_episode, picture, plain_episode, write
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipelines.schema import store as folder
from data_pipelines.schema.episode import DataError, Labels, encode_frame, validate
from data_pipelines.schema.features import Schema
from data_pipelines.schema.frames import FrameStore
from data_pipelines.schema.read import load_episodes, read_episodes

LABELS = Labels(
    t=np.array([0, 3], np.int32),
    horizon=np.array([4, 0], np.int32),
    question=("Is the cup full?", "Is the lid on?"),
    answer=("no", "yes"),
    confidence=np.array([0.7, 1.0], np.float32),
)
KINDS = {
    "board": board_episode,
    "cube": cube_episode,
    "other": lambda number: plain_episode(number, labels=LABELS),
}


@pytest.mark.parametrize("domain", KINDS)
def test_what_was_written_is_read_back(domain, tmp_path):
    episodes = [KINDS[domain](number) for number in range(6)]
    write(tmp_path / "data", episodes[:5], episodes[5:])
    back = [*read_episodes(tmp_path / "data"), *read_episodes(tmp_path / "data", "val")]
    for before, after in zip(episodes, back):
        assert after.image == before.image
        for field in ("policy", "domain", "source", "instruction", "episode", "fps"):
            assert getattr(after, field) == getattr(before, field)
        np.testing.assert_array_equal(after.action, before.action)
        assert set(after.state) == set(before.state)
        for name, value in before.state.items():
            np.testing.assert_array_equal(after.state[name], value)
            assert after.state[name].dtype == value.dtype
        for field in dataclasses.fields(Labels):
            left, right = (getattr(e.labels, field.name) for e in (before, after))
            assert list(left) == list(right)


def test_version_1_folders_are_still_read(tmp_path):
    """Written as version 1 wrote them: no domain, no source, no labels."""
    episode = board_episode(7, steps=20, policy="contact")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Sequence(
                tfds.features.Image(shape=(16, 16, 3), encoding_format="png")
            ),
            "block_pose": tfds.features.Tensor(shape=(None, 8, 3), dtype=np.float32),
            "peg": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
            "action": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
            "block_id": tfds.features.Tensor(shape=(8,), dtype=np.int32),
            "policy": tfds.features.Text(),
            "seed": tfds.features.Scalar(dtype=np.int64),
            "episode": tfds.features.Scalar(dtype=np.int64),
            "schema_version": tfds.features.Scalar(dtype=np.int32),
        }
    )
    record = {
        "image": episode.image,
        **episode.state,
        "action": episode.action,
        "policy": "contact",
        "seed": 3,
        "episode": 7,
        "schema_version": 1,
    }
    name = "board-train.array_record-00000-of-00001"
    writer = array_record_module.ArrayRecordWriter(str(tmp_path / name), "group_size:1")
    serializer = ExampleSerializer(features.get_serialized_info())
    writer.write(serializer.serialize_example(features.encode_example(record)))
    writer.close()
    features.save_config(str(tmp_path))
    split = {
        "name": "train",
        "shardLengths": ["1"],
        "numBytes": "1",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {
        "name": "board",
        "version": "1.0.0",
        "fileFormat": "array_record",
        "splits": [split],
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    arrays = load_episodes(tmp_path)
    assert arrays.domain == "board" and arrays.policies == ("contact",)
    np.testing.assert_array_equal(arrays.peg[0], episode.state["peg"])
    np.testing.assert_array_equal(arrays.image(0, 9), picture(7, 9))
    assert len(arrays.labels[0]) == 0


@pytest.mark.parametrize("mode", ["compressed", "disk"])
def test_frames_are_the_same_wherever_they_are_kept(mode, tmp_path):
    write(tmp_path / "data", [board_episode(n, 20 + n) for n in range(9)], [])
    memory = load_episodes(tmp_path / "data")
    other = load_episodes(tmp_path / "data", frames=mode)
    assert isinstance(other.frames, FrameStore)
    assert other.frames.shape == memory.frames.shape
    rng = np.random.default_rng(0)
    episode = rng.integers(0, 9, (5, 3))
    t = rng.integers(0, 20, (5, 3))
    np.testing.assert_array_equal(other.image(episode, t), memory.image(episode, t))
    np.testing.assert_array_equal(other.image(4, 2), picture(4, 2))


def test_frames_can_be_brought_to_one_size(tmp_path):
    write(tmp_path / "data", [board_episode(0, size=32)], [])
    for mode in ("memory", "compressed"):
        arrays = load_episodes(tmp_path / "data", frames=mode, size=(16, 16))
        whole = picture(0, 5, 32).reshape(16, 2, 16, 2, 3).mean((1, 3))
        assert np.abs(arrays.image(0, 5) - whole).max() <= 1


@pytest.mark.parametrize(
    "change, match",
    [
        ({"domain": "boord"}, "unknown domain 'boord' .did you mean 'board'"),
        ({"domain": "cube"}, "lacks the field 'gripper'"),
        ({"policy": ""}, "policy"),
        ({"action": np.zeros((24, 4), np.float32)}, r"shape of action is \(24, 4\)"),
    ],
)
def test_broken_episode_is_refused(change, match):
    with pytest.raises(DataError, match=match):
        validate(dataclasses.replace(board_episode(0), **change))


@pytest.mark.parametrize(
    "field, value, match",
    [
        ("block_pose", lambda x: x * 100, "farthest cube"),
        ("block_pose", lambda x: x[:, :2], "cubes is 2, expected 3"),
        ("block_pose", lambda x: x * np.float32(0.5), "length of a quaternion"),
        ("block_id", lambda x: x * 0, "different blocks"),
        ("gripper", lambda x: x[:-1], r"shape of gripper is \(24, 6\)"),
    ],
)
def test_broken_cube_episode_is_refused(field, value, match):
    episode = cube_episode(0)
    validate(episode)
    episode.state[field] = value(episode.state[field])
    with pytest.raises(DataError, match=match):
        validate(episode)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"t": np.array([0, 30], np.int32)}, "frame of a label"),
        ({"confidence": np.array([0.5, 1.5], np.float32)}, "confidence"),
        ({"answer": ("no",)}, "number of label fields"),
        ({"question": ("", "x")}, "question of a label is empty"),
    ],
)
def test_broken_labels_are_refused(change, match):
    labels = dataclasses.replace(LABELS, **change)
    with pytest.raises(DataError, match=match):
        validate(plain_episode(0, labels=labels))


def test_folder_holds_episodes_of_one_kind(tmp_path):
    schema = Schema.of(plain_episode(0))
    path = tmp_path / "x.array_record"
    for other, match in [
        (plain_episode(1, width=4), "episode 1: action_size is 4, expected 3"),
        (board_episode(1), "domain is board, expected other"),
        (
            dataclasses.replace(
                plain_episode(1),
                image=[encode_frame(picture(0, t, 32), "png") for t in range(25)],
            ),
            "height is 32, expected 16",
        ),
        (
            dataclasses.replace(
                plain_episode(1),
                image=[encode_frame(picture(0, t), "jpeg") for t in range(25)],
            ),
            "encoding is jpeg, expected png",
        ),
    ]:
        with pytest.raises(DataError, match=match):
            folder.write_shard(path, [plain_episode(0), other], schema)
        assert not list(tmp_path.iterdir())


def damage(directory, name, at):
    path = next(directory.glob(name))
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    return path.name


def test_damaged_record_is_an_error_or_a_counted_skip(tmp_path):
    data = write(tmp_path / "data", [board_episode(n) for n in range(8)], [])
    name = damage(data, "*00000-of-00002", at=1500)
    with pytest.raises(DataError, match=f"{name} is damaged"):
        load_episodes(data)
    skipped = []
    arrays = load_episodes(data, skipped=skipped)
    assert len(skipped) > 0 and len(arrays) == 8 - len(skipped)
    assert all(name in line for line in skipped)
    for row, number in enumerate(arrays.episode):
        np.testing.assert_array_equal(arrays.image(row, 3), picture(number, 3))


def test_missing_shard_costs_its_episodes_only(tmp_path):
    data = write(tmp_path / "data", [board_episode(n) for n in range(8)], [])
    next(data.glob("*00001-of-00002")).unlink()
    skipped = []
    arrays = load_episodes(data, skipped=skipped)
    assert arrays.episode.tolist() == [0, 1, 2, 3] and len(skipped) == 4
    assert "00001-of-00002 is missing" in skipped[0]


def test_damaged_frame_costs_its_episode_only(tmp_path, monkeypatch):
    episodes = [board_episode(n) for n in range(4)]
    episodes[2].image[5] = episodes[2].image[5][:60]
    data = write(tmp_path / "data", episodes, [])
    with pytest.raises(DataError, match="episode 2: frame 5 cannot be decoded"):
        load_episodes(data)
    skipped = []
    arrays = load_episodes(data, skipped=skipped)
    assert arrays.episode.tolist() == [0, 1, 3] and len(skipped) == 1
    np.testing.assert_array_equal(arrays.image(2, 7), picture(3, 7))
