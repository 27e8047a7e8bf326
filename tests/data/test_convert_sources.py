"""Other people's data: read as published, converted, and refused when damaged."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow_datasets as tfds
from foreign_data import (
    CAMERA,
    FPS,
    actions,
    colour,
    frame,
    language_table,
    lerobot,
    ogbench_file,
    write_records,
    write_video,
)

from data_pipelines.schema.episode import DataError, decode_frame
from data_pipelines.schema.read import open_dataset, read_episodes
from data_pipelines.sources import convert as convert_module
from data_pipelines.sources import open_source
from data_pipelines.sources.convert import Settings, convert
from data_pipelines.sources.tfrecords import TFRecordFile, masked_crc
from data_pipelines.sources.videos import read_video

INSTRUCTION = "push the red moon to the blue cube, s'il vous plaît"
ROOT = Path(__file__).parents[2]
SMALL = Settings(size=(24, 24), episodes_per_shard=1, val_share=0.34)
SKIP = Settings(size=(24, 24), episodes_per_shard=1, val_share=0.34, on_damage="skip")


@pytest.fixture(scope="module", params=["v2.1", "v3.0"])
def robot(request, tmp_path_factory):
    return lerobot(tmp_path_factory.mktemp(request.param) / "set", request.param)


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def table(request, tmp_path_factory):
    return language_table(tmp_path_factory.mktemp("lt") / "0.0.1", kind=request.param)


def everything(directory):
    episodes = [e for s in ("train", "val") for e in read_episodes(directory, s)]
    return {e.episode: e for e in episodes}


def assert_shows(file: bytes, episode: int, t: int, tolerance: int) -> None:
    """A frame of the right moment; steps differ by 12 levels of green."""
    seen = decode_frame(file).reshape(-1, 3).mean(0)
    assert np.abs(seen - colour(episode, t)).max() < tolerance, (episode, t)


def test_lerobot_episodes_keep_frames_actions_states_and_tasks(robot, tmp_path):
    made = convert(robot, tmp_path / "out", SMALL)
    episodes = everything(tmp_path / "out")
    assert made.episodes == 3 and made.skipped == [] and sorted(episodes) == [0, 1, 2]
    for number, steps in enumerate((12, 9, 15)):
        episode = episodes[number]
        assert len(episode) == steps - 1 and len(episode.image) == steps
        np.testing.assert_array_equal(episode.action, actions(number, steps)[:-1])
        np.testing.assert_array_equal(
            episode.state["proprio"], actions(100 + number, steps, 4)
        )
        assert episode.instruction == ("push the block", "lift it")[number % 2]
        assert episode.domain == "other" and episode.fps == FPS
        assert "LeRobot v" in episode.source
        for t, file in enumerate(episode.image):
            assert decode_frame(file).shape == (24, 24, 3)
            assert_shows(file, number, t, tolerance=6)


def test_splits_of_a_conversion_share_no_episode(robot, tmp_path):
    convert(robot, tmp_path / "out", SMALL)
    parts = [
        {e.episode for e in read_episodes(tmp_path / "out", split)}
        for split in ("train", "val")
    ]
    assert not parts[0] & parts[1] and sorted(parts[0] | parts[1]) == [0, 1, 2]


def test_long_recordings_are_cut_where_the_next_part_begins(robot, tmp_path):
    settings = Settings(size=(24, 24), max_steps=5, val_share=0.34)
    convert(robot, tmp_path / "out", settings)
    episodes = everything(tmp_path / "out")
    parts = [episodes[n] for n in (2000, 2001, 2002)]
    assert [len(part) for part in parts] == [5, 5, 4]
    joined = np.concatenate([part.action for part in parts])
    np.testing.assert_array_equal(joined, actions(2, 15)[:-1])
    assert parts[0].image[-1] == parts[1].image[0]


def test_language_table_episodes_are_those_that_tfds_wrote(table, tmp_path):
    convert(table, tmp_path / "out", SMALL)
    episodes = everything(tmp_path / "out")
    for number, steps in enumerate((8, 6, 7)):
        episode = episodes[number]
        move, effector = actions(number, steps, 2), actions(number + 50, steps, 2)
        np.testing.assert_array_equal(episode.action, move[:-1])
        np.testing.assert_array_equal(episode.state["effector"], effector)
        np.testing.assert_array_equal(episode.state["effector_target"], effector + move)
        assert episode.instruction == INSTRUCTION
        assert episode.domain == "language_table" and episode.policy == "human"
        for t, file in enumerate(episode.image):
            assert_shows(file, number, t, tolerance=1)


def test_frames_that_fit_are_kept_as_they_are(tmp_path):
    source = language_table(tmp_path / "in", kind="array_record", size=(36, 64))
    convert(source, tmp_path / "out", Settings(size=None, val_share=0.34))
    raw = open_source(source).read(1)
    assert everything(tmp_path / "out")[1].image == list(raw.frames)


def test_converted_folder_opens_in_tfds(table, tmp_path):
    convert(table, tmp_path / "out", SMALL)
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    record = builder.as_data_source("val")[0]
    assert record["effector"].shape == (7, 2) or record["effector"].shape[1] == 2
    assert record["domain"] == b"language_table"
    assert "language_table_sim" in builder.info.description


def test_masked_checksum_is_that_of_the_published_format():
    """CRC-32C of 32 zero bytes is 0x8A9136AA (RFC 3720), then rotated and shifted."""
    assert google_crc32c.value(bytes(32)) == 0x8A9136AA
    rotated = (0x8A9136AA >> 15) | (0x8A9136AA << 17) & 0xFFFFFFFF
    assert masked_crc(bytes(32)) == (rotated + 0xA282EAD8) % 2**32


def test_frames_of_a_part_of_a_video_are_exact(tmp_path):
    film = [frame(0, t) for t in range(18)]
    write_video(tmp_path / "film.mp4", film)
    for first in (0, 5, 13):
        frames = read_video(tmp_path / "film.mp4", 4, FPS, first / FPS)
        for offset, image in enumerate(frames):
            assert np.abs(image.mean((0, 1)) - colour(0, first + offset)).max() < 6


def test_interrupted_conversion_continues_to_the_same_bytes(
    robot, tmp_path, monkeypatch
):
    convert(robot, tmp_path / "whole", SMALL)
    real, calls = convert_module.folder.write_shard, []

    def dies(path, *rest):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(path, *rest)

    monkeypatch.setattr(convert_module.folder, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        convert(robot, tmp_path / "out", SMALL)
    with pytest.raises(DataError, match=r"no dataset_info\.json"):
        open_dataset(tmp_path / "out")
    made = calls[0].stat().st_mtime_ns
    monkeypatch.setattr(convert_module.folder, "write_shard", real)
    convert(robot, tmp_path / "out", SMALL)
    assert calls[0].stat().st_mtime_ns == made
    left, right = (
        {p.name: p.read_bytes() for p in (tmp_path / name).glob("*array_record*")}
        for name in ("whole", "out")
    )
    assert left == right


def refused(match, source, output, settings=SMALL):
    with pytest.raises(DataError, match=match) as caught:
        convert(source, output, settings)
    assert "\n" not in str(caught.value)


def skipped(match, source, output, kept):
    made = convert(source, output, SKIP)
    assert made.episodes == kept
    assert len(made.skipped) == 1 and match in made.skipped[0]
    info = json.loads((output / "dataset_info.json").read_text())
    assert json.loads(info["description"])["skipped"] == made.skipped
    assert len(everything(output)) == kept


def test_missing_video_is_an_error_or_a_counted_skip(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1")
    (source / "videos" / "chunk-000" / CAMERA / "episode_000001.mp4").unlink()
    refused("video .*episode_000001.mp4 is missing", source, tmp_path / "a")
    skipped("episode_000001.mp4 is missing", source, tmp_path / "b", kept=2)


def test_video_that_is_cut_short_is_an_error_or_a_counted_skip(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1")
    video = source / "videos" / "chunk-000" / CAMERA / "episode_000000.mp4"
    video.write_bytes(video.read_bytes()[:300])
    refused("episode_000000.mp4 cannot be decoded", source, tmp_path / "a")
    skipped("episode_000000.mp4 cannot be decoded", source, tmp_path / "b", kept=2)


def test_video_with_too_few_frames_is_told(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1")
    video = source / "videos" / "chunk-000" / CAMERA / "episode_000002.mp4"
    write_video(video, [frame(2, t) for t in range(10)])
    refused("has 10 frames from 0 s on, expected 15", source, tmp_path / "a")


def test_video_of_another_frame_rate_is_told(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1", fps=FPS)
    video = source / "videos" / "chunk-000" / CAMERA / "episode_000001.mp4"
    write_video(video, [frame(1, t) for t in range(9)], fps=25)
    refused("has 25 frames per second, expected 10", source, tmp_path / "a")


def test_steps_that_do_not_fit_the_frame_rate_are_told(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1")
    info = source / "meta" / "info.json"
    info.write_text(info.read_text().replace('"fps": 10', '"fps": 30'))
    refused("0.100 s apart, expected 0.033 s at 30", source, tmp_path / "a")


def test_states_of_another_width_are_told(tmp_path):
    source = lerobot(tmp_path / "in", "v3.0")
    info = json.loads((source / "meta" / "info.json").read_text())
    info["features"]["observation.state"]["shape"] = [6]
    (source / "meta" / "info.json").write_text(json.dumps(info))
    refused("observation.state has 4 numbers, info.json says 6", source, tmp_path / "a")


def test_episode_of_another_action_width_is_skipped_or_told(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = lerobot(tmp_path / "in", "v2.1")
    path = source / "data" / "chunk-000" / "episode_000001.parquet"
    rows = pq.read_table(path)
    place = rows.column_names.index("action")
    wide = pa.array(actions(1, 9, 5).tolist())
    pq.write_table(rows.set_column(place, "action", wide), path)
    refused("action has 5 numbers, info.json says 3", source, tmp_path / "a")
    skipped("action has 5 numbers", source, tmp_path / "b", kept=2)


def test_damaged_parquet_is_an_error_or_a_counted_skip(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1")
    path = source / "data" / "chunk-000" / "episode_000000.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    refused("episode_000000.parquet is damaged", source, tmp_path / "a")
    skipped("episode_000000.parquet is damaged", source, tmp_path / "b", kept=2)


def test_unknown_version_and_camera_are_refused(tmp_path):
    source = lerobot(tmp_path / "in", "v3.0")
    other = Settings(camera="observation.images.wrist")
    refused(
        f"no camera 'observation.images.wrist', it has {CAMERA}", source, "x", other
    )
    info = source / "meta" / "info.json"
    info.write_text(info.read_text().replace("v3.0", "v1.6"))
    refused("LeRobot version v1.6, this code reads v2.0", source, tmp_path / "a")


def test_flipped_byte_in_a_tfrecord_is_an_error_or_a_counted_skip(tmp_path):
    source = language_table(tmp_path / "in", shards=1)
    path = next(source.glob("*.tfrecord-*"))
    place = TFRecordFile(path)._places[1][0] + 50
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    refused("record 1: its checksum does not fit", source, tmp_path / "a")
    skipped("record 1: its checksum does not fit", source, tmp_path / "b", kept=2)


def test_truncated_and_missing_shards_are_told(tmp_path):
    source = language_table(tmp_path / "in", lengths=(8, 6, 7, 5), shards=2)
    second = sorted(source.glob("*.tfrecord-*"))[1]
    whole = second.read_bytes()
    second.write_bytes(whole[:-100])
    refused("ends within record 1", source, tmp_path / "a")
    skipped("ends within record 1", source, tmp_path / "b", kept=2)
    second.unlink()
    refused("00001-of-00002 is missing", source, tmp_path / "c")
    skipped("00001-of-00002 is missing", source, tmp_path / "d", kept=2)


def test_record_without_a_feature_is_told(tmp_path):
    source = language_table(tmp_path / "in", shards=1)
    path = next(source.glob("*.tfrecord-*"))
    file = TFRecordFile(path)
    records = [file.read(i) for i in range(3)]
    records[2] = records[2].replace(b"effector_translation", b"effector_transl8tion")
    write_records(path, records, "tfrecord")
    refused(
        "record 2 lacks the feature .*effector_translation'", source, tmp_path / "a"
    )


def test_full_disk_is_told_in_one_line_and_can_be_continued(table, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))  # as a full disk does
    try:
        refused("cannot write .*language_table", table, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out").glob("partial.*"))
    assert convert(table, tmp_path / "out", SMALL).episodes == 3


def test_other_settings_do_not_continue_a_conversion(table, tmp_path):
    convert(table, tmp_path / "out", SMALL)
    refused(r"settings\.\w+ is", table, tmp_path / "out", Settings(size=(48, 48)))


def test_something_else_is_refused_with_what_would_do(tmp_path):
    (tmp_path / "letters").mkdir()
    refused("expected meta/info.json .LeRobot.", tmp_path / "letters", tmp_path / "a")
    refused("no data at", tmp_path / "nowhere", tmp_path / "a")


def test_training_on_an_unconverted_folder_says_what_to_do(table, robot):
    for directory in (table, robot):
        copy = Path(directory)
        with pytest.raises(DataError, match=r"python -m data_pipelines\.convert"):
            open_dataset(copy)


def test_ogbench_file_without_positions_becomes_recordings(tmp_path):
    source = ogbench_file(tmp_path / "visual-cube-double-play-v0.npz")
    convert(source, tmp_path / "out", Settings(size=None, val_share=0.5))
    episodes = everything(tmp_path / "out")
    assert sorted(len(e) for e in episodes.values()) == [24, 29]
    every = np.clip(actions(7, 55, 5), -1, 1)
    np.testing.assert_array_equal(episodes[1].action, every[30:54])
    assert_shows(episodes[1].image[9], 1, 9, tolerance=1)
    assert episodes[0].policy == "play" and episodes[0].domain == "other"


def test_command_line_tells_what_was_made_and_what_was_skipped(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1")
    (source / "videos" / "chunk-000" / CAMERA / "episode_000001.mp4").unlink()
    command = [sys.executable, "-m", "data_pipelines.convert", source, tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: video ")
    shutil.rmtree(tmp_path / "out")
    command += ["--on_damage=skip", "--size=24x24"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 episodes are in" in done.stdout and "1 were skipped" in done.stdout
