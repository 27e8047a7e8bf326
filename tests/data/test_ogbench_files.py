"""OGBench's files: read trajectory by trajectory, damage told."""

import dataclasses
import tracemalloc
import zipfile

import numpy as np
import pytest
from foreign_data import actions, ogbench_file

from data_pipelines.schema.episode import DataError, decode_frame
from data_pipelines.schema.read import read_episodes
from data_pipelines.sources import open_source
from data_pipelines.sources.convert import Settings, convert

KEEP = Settings(size=None, val_share=0.5)
SKIP = dataclasses.replace(KEEP, on_damage="skip")
NAME = "visual-cube-double-play-v0.npz"


def write(path, save=np.savez, **changes):
    """Four trajectories of random pictures, with arrays replaced or left out."""
    lengths = (7, 9, 6, 8)
    count = sum(lengths)
    ends = np.zeros(count, np.float32)
    ends[np.cumsum(lengths) - 1] = 1
    rng = np.random.default_rng(0)
    content = {
        "observations": rng.integers(0, 256, (count, 16, 16, 3), np.uint8),
        "actions": np.clip(actions(7, count, 5), -1, 1),
        "terminals": ends,
        **changes,
    }
    save(path, **{name: x for name, x in content.items() if x is not None})
    return path, content


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_is_that_of_a_trajectory(tmp_path, save):
    count, long = 6000, 500
    ends = np.zeros(count, np.float32)
    ends[long - 1 :: long] = 1
    pictures = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 64, 64, 3)
    )
    path = tmp_path / NAME
    save(path, observations=pictures, actions=np.zeros((count, 5)), terminals=ends)
    tracemalloc.start()
    settings = dataclasses.replace(KEEP, max_episodes=2)
    made = convert(path, tmp_path / "out", settings)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made.episodes == 4  # two recordings of 499 actions, in parts
    assert most < 0.3 * count * 64 * 64 * 3
    second = next(iter(read_episodes(tmp_path / "out", "val")))
    assert decode_frame(second.image[3])[0, 0, 0] == (long + 3) % 256


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_trajectories_in_any_order_are_those_of_the_file(tmp_path, save):
    path, content = write(tmp_path / NAME, save)
    source = open_source(path)
    bounds = [0, 7, 16, 22, 30]
    for number in (2, 0, 3, 3, 1):
        part = slice(bounds[number], bounds[number + 1])
        raw = source.read(number)
        np.testing.assert_array_equal(
            np.stack(list(raw.frames)), content["observations"][part]
        )
        np.testing.assert_array_equal(raw.action, content["actions"][part])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_pictures_are_an_error_or_a_told_skip(tmp_path, save):
    path, _ = write(tmp_path / NAME, save)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("observations.npy")
    content = bytearray(path.read_bytes())
    content[info.header_offset + info.compress_size // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"npz: observations is damaged"):
        convert(path, tmp_path / "a", KEEP)
    try:
        made = convert(path, tmp_path / "b", SKIP)
    except DataError as error:
        assert "observations is damaged" in str(error)
    else:
        assert any("observations is damaged" in line for line in made.skipped)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"observations": None}, "has no 'observations'"),
        ({"terminals": None}, "has no 'terminals'"),
        ({"observations": np.zeros((30, 16, 16, 3))}, r"float64\[30, 16, 16, 3\]"),
        ({"observations": np.zeros((30, 28), np.float32)}, r"take a visual-\* data"),
        ({"observations": np.zeros((0, 2, 2, 3), np.uint8)}, "has 0 steps"),
        ({"actions": np.zeros((29, 5), np.float32)}, "actions has 29 steps, terminals"),
        ({"actions": np.zeros(30, np.float32)}, r"actions float32\[30\], expected"),
        ({"actions": np.array(["a"] * 30)}, "expected float32"),
        ({"actions": np.array([None] * 30, object)}, "pickles are never read"),
        ({"terminals": np.zeros(30)}, "does not end with a terminal step"),
        ({"terminals": np.array(1.0)}, "has 30 steps, terminals 0"),
        ({"terminals": np.full(30, np.nan)}, "terminals is not finite"),
        (
            {"observations": np.zeros((3, 16, 16, 30), np.uint8).T},
            "stored column by column",
        ),
    ],
)
def test_arrays_of_another_kind_are_told(tmp_path, changes, match):
    path, _ = write(tmp_path / NAME, **changes)
    with pytest.raises(DataError, match=match) as caught:
        convert(path, tmp_path / "out", KEEP)
    assert "\n" not in str(caught.value)


def test_file_that_is_cut_off_is_told(tmp_path):
    path = ogbench_file(tmp_path / NAME)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="is damaged"):
        convert(path, tmp_path / "out", KEEP)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match=r"is a Git LFS pointer.*git lfs pull"):
        convert(path, tmp_path / "out", KEEP)


def test_trajectory_of_one_step_is_skipped_and_told(tmp_path):
    ends = np.zeros(30, np.float32)
    ends[[6, 7, 21, 29]] = 1
    path, _ = write(tmp_path / NAME, terminals=ends)
    with pytest.raises(DataError, match="trajectory 1 has 1 steps"):
        convert(path, tmp_path / "a", KEEP)
    made = convert(path, tmp_path / "b", SKIP)
    assert len(made.skipped) == 1 and made.episodes == 3
