"""LeRobot sets of people: wrong times, names of their own, gaps in the metadata."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from foreign_data import (
    CAMERA,
    FPS,
    actions,
    colour,
    edit_episodes,
    edit_info,
    edit_tasks,
    frame,
    lerobot,
    write_video,
)

from data_pipelines.schema.episode import DataError, decode_frame, encode_png
from data_pipelines.schema.read import read_episodes
from data_pipelines.sources import open_source
from data_pipelines.sources.convert import Settings, convert
from data_pipelines.sources.videos import read_video

ROOT = Path(__file__).parents[2]
SMALL = Settings(size=(24, 24), episodes_per_shard=1, val_share=0.34)
SKIP = dataclasses.replace(SMALL, on_damage="skip")
VERSIONS = pytest.mark.parametrize("version", ["v2.1", "v3.0"])


def pictures(episode, t):
    return encode_png(frame(episode, t))


def everything(directory):
    episodes = [e for s in ("train", "val") for e in read_episodes(directory, s)]
    return {e.episode: e for e in episodes}


def refused(match, source, output, settings=SMALL):
    with pytest.raises(DataError, match=match) as caught:
        convert(source, output, settings)
    assert "\n" not in str(caught.value)


def skipped(match, source, output, kept, lost=1, settings=SKIP):
    """The damaged ones are told; the others are those of the intact set."""
    made = convert(source, output, settings)
    assert made.episodes == len(kept) and len(made.skipped) == lost, made
    assert match in made.skipped[0]
    assert sorted(everything(output)) == sorted(kept)


def shift(source, episode, frames):
    def change(rows):
        rows[episode][f"videos/{CAMERA}/from_timestamp"] += frames / FPS
        return rows

    edit_episodes(source, change)


@pytest.mark.parametrize("frames", [0.6, -0.6, 0.3, -0.3])
def test_start_between_frames_is_damage_of_its_episode(tmp_path, frames):
    source = lerobot(tmp_path / "in", "v3.0")
    shift(source, 1, frames)
    refused(r"the frame of step 0 is at .* s, expected", source, tmp_path / "a")
    skipped("it shows another moment", source, tmp_path / "b", kept=[0, 2])


@pytest.mark.parametrize("frames", [1, -1, 3])
def test_start_that_is_off_by_whole_frames_is_damage(tmp_path, frames):
    """Each frame has the time that is asked for, but is a neighbour's."""
    source = lerobot(tmp_path / "in", "v3.0")
    shift(source, 1, frames)
    refused("has its own .* a from_timestamp is wrong", source, tmp_path / "a")
    # The times of episode 1 contradict its length: the other is not to blame.
    skipped("a from_timestamp is wrong", source, tmp_path / "b", kept=[0, 2])


def test_start_that_is_right_up_to_rounding_is_taken(tmp_path):
    source = lerobot(tmp_path / "in", "v3.0")
    shift(source, 1, 0.1)
    shift(source, 2, -0.1)
    assert convert(source, tmp_path / "out", SMALL).episodes == 3
    for number, episode in everything(tmp_path / "out").items():
        for t, file in enumerate(episode.image):
            seen = decode_frame(file).mean((0, 1))
            assert np.abs(seen - colour(number, t)).max() < 6


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_frame_that_is_dropped_in_the_middle_of_a_video_is_damage(tmp_path, codec):
    film = [frame(0, t) for t in range(18)]
    drop = ("-vf", "select=not(eq(n\\,6))", "-fps_mode", "passthrough")
    write_video(tmp_path / "film.mp4", film, codec=codec, output=drop)
    assert len(list(read_video(tmp_path / "film.mp4", 6, FPS))) == 6
    with pytest.raises(DataError, match=r"step 6 is at 0\.700 s, expected 0\.600 s"):
        list(read_video(tmp_path / "film.mp4", 10, FPS))
    frames = read_video(tmp_path / "film.mp4", 3, FPS, 1.0)
    assert np.abs(next(iter(frames)).mean((0, 1)) - colour(0, 10)).max() < 6


def test_flipped_bytes_within_a_video_are_damage(tmp_path):
    rng = np.random.default_rng(0)
    film = rng.integers(0, 256, (18, 64, 96, 3), np.uint8)
    write_video(tmp_path / "film.mp4", film, codec="libsvtav1")
    content = bytearray((tmp_path / "film.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = rng.bytes(2000)
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(DataError, match="cannot be decoded"):
        list(read_video(tmp_path / "film.mp4", 18, FPS))


def test_frames_stream_and_do_not_wait_in_memory(tmp_path):
    film = [frame(0, t % 16) for t in range(40)]
    write_video(tmp_path / "film.mp4", film)
    frames = iter(read_video(tmp_path / "film.mp4", 40, FPS))
    first = next(frames)
    frames.close()  # ends ffmpeg
    assert first.shape == (32, 48, 3)


def test_times_that_drift_by_little_steps_are_told(tmp_path):
    """A rate of 11 a second is within the tolerance of one step, not of twelve."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = lerobot(tmp_path / "in", "v2.1")
    path = source / "data" / "chunk-000" / "episode_000000.parquet"
    rows = pq.read_table(path)
    drifting = pa.array(np.arange(12) / 11)
    place = rows.column_names.index("timestamp")
    pq.write_table(rows.set_column(place, "timestamp", drifting), path)
    refused("step 3 is at 0.273 s, expected 0.300 s", source, tmp_path / "a")
    skipped("step 3 is at", source, tmp_path / "b", kept=[1, 2])


def test_rows_in_another_order_are_told(tmp_path):
    import pyarrow.parquet as pq

    source = lerobot(tmp_path / "in", "v2.1", pictures=pictures)
    path = source / "data" / "chunk-000" / "episode_000001.parquet"
    rows = pq.read_table(path).take([0, 2, 1, *range(3, 9)])
    pq.write_table(rows.drop_columns(["timestamp"]), path)
    refused("frame_index does not rise", source, tmp_path / "a")
    skipped("frame_index does not rise", source, tmp_path / "b", kept=[0, 2])


@pytest.mark.parametrize("camera, blue", [(CAMERA, 120), ("wrist", 170)])
@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
@VERSIONS
def test_each_of_two_cameras_is_read_in_both_layouts(
    tmp_path, version, codec, camera, blue
):
    cameras = (CAMERA, "wrist")
    source = lerobot(tmp_path / "in", version, cameras=cameras, codec=codec)
    settings = dataclasses.replace(SMALL, camera=camera)
    assert convert(source, tmp_path / "out", settings).episodes == 3
    for number, episode in everything(tmp_path / "out").items():
        for t, file in enumerate(episode.image):
            seen = decode_frame(file).mean((0, 1))
            assert np.abs(seen - (*colour(number, t)[:2], blue)).max() < 8


@VERSIONS
def test_episodes_that_no_split_covers_are_counted_and_listed(
    tmp_path, version, capsys
):
    source = lerobot(tmp_path / "in", version, (6, 5, 7, 8), pictures=pictures)
    edit_info(source, lambda info: info.update(splits={"train": "0:2"}))
    made = convert(source, tmp_path / "a", SMALL)
    assert made.episodes == 2 and list(made.uncovered) == [2, 3]
    assert "2 episodes are in no split and are left out" in capsys.readouterr().out
    told = json.loads((tmp_path / "a" / "dataset_info.json").read_text())
    assert json.loads(told["description"])["uncovered"] == [2, 3]
    settings = dataclasses.replace(SMALL, take_uncovered=True)
    made = convert(source, tmp_path / "b", settings)
    assert made.episodes == 4 and not made.uncovered
    assert sorted(everything(tmp_path / "b")) == [0, 1, 2, 3]


@VERSIONS
def test_hole_in_the_numbers_leaves_no_episode_unmentioned(tmp_path, version):
    source = lerobot(tmp_path / "in", version, (6, 5, 7, 8), pictures=pictures)
    edit_episodes(source, lambda rows: [rows[i] for i in (0, 1, 3)])
    edit_info(
        source, lambda info: info.update(splits={"train": "0:3"}, total_episodes=3)
    )
    made = convert(source, tmp_path / "a", SMALL)
    assert made.episodes == 2 and list(made.uncovered) == [3]
    settings = dataclasses.replace(SMALL, take_uncovered=True)
    assert sorted(everything_of(source, tmp_path / "b", settings)) == [0, 1, 3]


def everything_of(source, output, settings):
    convert(source, output, settings)
    return everything(output)


def test_episode_of_two_splits_is_told(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1", pictures=pictures)
    edit_info(source, lambda i: i.update(splits={"train": "0:3", "val": "2:3"}))
    refused("episode 2 is in the splits 'train' and 'val'", source, tmp_path / "a")


@pytest.mark.parametrize(
    "name, home",
    [("test", "val"), ("validation_seen", "val"), ("held_out", "val"), ("b", "train")],
)
def test_splits_go_to_train_or_val_by_their_names(tmp_path, name, home):
    source = lerobot(tmp_path / "in", "v2.1", (6, 5, 7, 8), pictures=pictures)
    edit_info(source, lambda info: info.update(splits={"train": "0:3", name: "3:4"}))
    convert(source, tmp_path / "out", SMALL)
    there = {e.episode for e in read_episodes(tmp_path / "out", home)}
    assert there >= {3} and (home == "train" or there == {3})


def test_skipping_all_of_a_split_ends_with_a_line_and_a_status(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1", pictures=pictures)
    edit_info(source, lambda i: i.update(splits={"train": "0:2", "val": "2:3"}))
    (source / "data" / "chunk-000" / "episode_000002.parquet").unlink()
    command = [sys.executable, "-m", "data_pipelines.convert", source, tmp_path / "out"]
    command += ["--on_damage=skip", "--size=24x24"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no episode of 'val' could be converted" in done.stderr
    assert not (tmp_path / "out" / "dataset_info.json").exists()


@VERSIONS
def test_task_without_words_takes_those_of_its_episode(tmp_path, version):
    source = lerobot(tmp_path / "in", version, pictures=pictures)
    edit_tasks(source, lambda rows: rows[:1])
    episodes = everything_of(source, tmp_path / "out", SMALL)
    assert episodes[1].instruction == "lift it"
    edit_episodes(source, lambda rows: [{**row, "tasks": None} for row in rows])
    refused("task_index 1 of its rows has no words", source, tmp_path / "a")
    skipped("its instruction is unknown", source, tmp_path / "b", kept=[0, 2])


@VERSIONS
def test_null_among_the_tasks_is_not_the_word_none(tmp_path, version):
    source = lerobot(tmp_path / "in", version, pictures=pictures)
    word = lambda row: next(name for name in row if name != "task_index")
    edit_tasks(source, lambda rows: [rows[0], {**rows[1], word(rows[1]): None}])
    episodes = everything_of(source, tmp_path / "out", SMALL)
    assert episodes[1].instruction == "lift it"


@pytest.mark.parametrize(
    "version, name, value, match",
    [
        ("v3.0", f"videos/{CAMERA}/chunk_index", None, "lacks 'videos/.*/chunk_index'"),
        ("v3.0", f"videos/{CAMERA}/file_index", "a", "expected a whole number"),
        ("v3.0", f"videos/{CAMERA}/from_timestamp", None, "lacks 'videos/.*from_time"),
        ("v3.0", "data/chunk_index", None, "lacks 'data/chunk_index'"),
        ("v3.0", "data/file_index", 0.5, "expected a whole number"),
        ("v3.0", "length", None, "lacks 'length'"),
        ("v2.1", "length", None, "lacks 'length'"),
        ("v2.1", "length", "9", "length is '9', expected a whole number"),
        ("v2.1", "episode_index", None, "lacks 'episode_index'"),
        ("v3.0", "episode_index", None, "lacks 'episode_index'"),
    ],
)
def test_field_that_one_episode_lacks_is_told_or_costs_that_episode(
    tmp_path, version, name, value, match
):
    source = lerobot(tmp_path / "in", version)

    def change(rows):
        if isinstance(value, str | float) and version == "v3.0":  # of one type a column
            rows = [{**row, name: type(value)(row[name])} for row in rows]
        rows[1][name] = value
        return rows

    edit_episodes(source, change)
    if isinstance(value, str) and version == "v3.0":  # the whole column is of texts
        refused(f"meta/episodes.* episode 0: .*{match}", source, tmp_path / "a")
        return
    which = "" if name == "episode_index" else " episode 1"
    refused(f"meta/episodes.*{which}.*{match}", source, tmp_path / "a")
    skipped("", source, tmp_path / "b", kept=[0, 2])


@pytest.mark.parametrize("missing", ["data/", "videos/", "length"])
def test_columns_that_all_episodes_lack_end_with_a_line(tmp_path, missing):
    source = lerobot(tmp_path / "in", "v3.0")
    drop = lambda row: {n: x for n, x in row.items() if not n.startswith(missing)}
    edit_episodes(source, lambda rows: [drop(row) for row in rows])
    refused(f"lacks '{missing}", source, tmp_path / "a")
    refused("3 were skipped|2 were skipped", source, tmp_path / "b", SKIP)


def test_videos_without_a_path_are_told(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1")
    edit_info(source, lambda info: info.update(video_path=None))
    refused("info.json lacks 'video_path'", source, tmp_path / "a")
    edit_info(source, lambda info: info.update(video_path="videos/{wrong}.mp4"))
    refused("video_path is 'videos/{wrong}.mp4', expected", source, tmp_path / "b")
    edit_info(source, lambda info: info.update(video_path="../../{video_key}.mp4"))
    refused("video_path leads to .* out of the folder", source, tmp_path / "c")


def test_metadata_that_disagree_cost_what_they_cover(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1", pictures=pictures)
    edit_info(source, lambda info: info.update(total_episodes=4))
    refused("lists 3 episodes, info.json says 4", source, tmp_path / "a")
    skipped("lists 3 episodes", source, tmp_path / "b", kept=[0, 1, 2])
    edit_info(source, lambda info: info.update(total_episodes=3))
    edit_episodes(source, lambda rows: [rows[0], rows[0], rows[2]])
    refused("episode 0 is listed twice", source, tmp_path / "c")


def rename(source, names):
    """Features and columns called as other converters call them."""
    import pyarrow.parquet as pq

    new = lambda name: names.get(name, name)
    edit_info(
        source,
        lambda info: info.update(
            features={new(n): x for n, x in info["features"].items()}
        ),
    )
    for file in source.glob("data/chunk-*/*.parquet"):
        rows = pq.read_table(file)
        pq.write_table(rows.rename_columns(list(map(new, rows.column_names))), file)


@VERSIONS
def test_names_of_other_converters_are_chosen(tmp_path, version, capsys):
    source = lerobot(tmp_path / "in", version, pictures=pictures)
    rename(source, {"action": "actions", "observation.state": "state", CAMERA: "image"})
    refused(r"choose --action of actions \(3\), state \(4\)", source, tmp_path / "a")
    with pytest.raises(DataError, match=r"no feature 'acton' .did you mean 'actions'"):
        open_source(source, action="acton")
    settings = dataclasses.replace(SMALL, action="actions", state="state")
    episodes = everything_of(source, tmp_path / "b", settings)
    for number, steps in enumerate((12, 9, 15)):
        episode = episodes[number]
        np.testing.assert_array_equal(episode.action, actions(number, steps)[:-1])
        np.testing.assert_array_equal(
            episode.state["proprio"], actions(100 + number, steps, 4)
        )
    capsys.readouterr()
    convert(source, tmp_path / "c", dataclasses.replace(SMALL, action="actions"))
    assert "--state takes one of state (4)" in capsys.readouterr().out


def test_formats_with_fixed_names_say_so(tmp_path):
    from foreign_data import ogbench_file

    source = ogbench_file(tmp_path / "visual-cube-double-play-v0.npz")
    with pytest.raises(DataError, match="leave out --action=actions"):
        open_source(source, action="actions")
    with pytest.raises(DataError, match="leave out --camera=top"):
        open_source(source, camera="top")


def test_conversion_of_before_the_new_settings_is_resumed(tmp_path):
    source = lerobot(tmp_path / "in", "v2.1", pictures=pictures)
    convert(source, tmp_path / "out", SMALL)
    file = tmp_path / "out" / "conversion.json"
    stored = json.loads(file.read_text())
    for name in ("action", "state", "take_uncovered"):
        del stored["settings"][name]
    file.write_text(json.dumps(stored))
    assert convert(source, tmp_path / "out", SMALL).episodes == 3


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_texts_are_utf_8_with_marks_of_others_in_any_locale(tmp_path, locale):
    source = lerobot(tmp_path / "in", "v2.1", pictures=pictures)
    words = "lève le bloc\u2028d'abord"
    meta = source / "meta"
    edit_tasks(source, lambda rows: [{"task_index": i, "task": words} for i in (0, 1)])
    text = json.dumps({"task_index": 0, "task": words}, ensure_ascii=False)
    text = f"\ufeff{text}\r\n   \n{text.replace(': 0', ': 1')}\n\n"
    (meta / "tasks.jsonl").write_bytes(text.encode())
    info = (meta / "info.json").read_text()
    (meta / "info.json").write_bytes(("\ufeff" + info).encode())
    episodes = (meta / "episodes.jsonl").read_text().replace("\n", "\n  \n")
    (meta / "episodes.jsonl").write_bytes(episodes.encode())
    command = [sys.executable, "-m", "data_pipelines.convert", source, tmp_path / "out"]
    ascii_only = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [*command, "--size=24x24"],
        cwd=ROOT,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", **ascii_only},
    )
    assert done.returncode == 0, done.stderr
    assert everything(tmp_path / "out")[0].instruction == words
