"""Opens a data set and hands out its episodes, decoded, as arrays.

`load_episodes("data/board", "val")` is what training, evaluation and reports read.
Reading goes through TFDS's data source (random access, no TensorFlow); frames are
decoded by Pillow in threads. Damage is told in one line that names the file.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.episodes import (
    DataError,
    Episode,
    EpisodeArrays,
    decode_png,
    first_frames,
    stack_episodes,
)
from data_pipelines.tfds_board import VERSION, check_shard

_MAKE = "make it with `python -m data_pipelines.generate`"


def open_dataset(data_dir: str | Path) -> tfds.core.DatasetBuilder:
    """The TFDS builder of a folder that `data_pipelines.generate` made.

    Raises:
      DataError: no such folder, an empty, unfinished or damaged one, or one of
        another schema version.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise DataError(f"no data set at {data_dir}: {_MAKE}")
    if not (data_dir / "dataset_info.json").exists():
        if not any(data_dir.iterdir()):
            raise DataError(f"{data_dir} is empty: {_MAKE}")
        raise DataError(
            f"{data_dir} has no dataset_info.json: its generation was not finished; "
            "run it again with the same --config and --output"
        )
    try:
        builder = tfds.builder_from_directory(str(data_dir))
        version = str(builder.info.version)
    except Exception as error:  # TFDS raises many kinds for broken metadata
        reason = str(error).strip().splitlines()[0] if str(error) else repr(error)
        raise DataError(f"{data_dir}: metadata is damaged ({reason})") from error
    if version != VERSION:
        raise DataError(
            f"{data_dir} has schema version {version}, this code reads {VERSION}: "
            "generate the data again"
        )
    return builder


def load_episodes(data_dir: str | Path, split: str = "train") -> EpisodeArrays:
    """All episodes of a split in memory, frames decoded (28 kB each at 96 px).

    Args:
      data_dir: the data set's folder.
      split: "train" or "val".

    Raises:
      DataError: what `open_dataset` raises, an unknown split, a shard that is missing
        or cut off, or a record that is damaged or breaks the schema.
    """
    episodes = read_episodes(data_dir, split)
    first = first_frames(episodes)
    shape = _decode(episodes[0], 0).shape
    frames = np.empty((first[-1], *shape), np.uint8)

    def fill(i: int) -> None:
        for t in range(len(episodes[i]) + 1):
            image = _decode(episodes[i], t)
            if image.shape != shape:
                raise DataError(
                    f"{data_dir} {split} episode {episodes[i].episode}: frame {t} has "
                    f"shape {image.shape}, expected {shape}"
                )
            frames[first[i] + t] = image

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(fill, range(len(episodes))))
    return stack_episodes(episodes, frames)


def read_episodes(data_dir: str | Path, split: str = "train") -> Sequence[Episode]:
    """The episodes of a split as stored, frames still PNG; see `load_episodes`."""
    builder = open_dataset(data_dir)
    splits = builder.info.splits
    if split not in splits:
        raise DataError(
            f"{data_dir} has no split '{split}'; it has {', '.join(splits) or 'none'}"
        )
    info = splits[split]
    for path, expected in zip(info.filepaths, info.shard_lengths):
        if not Path(path).exists():
            raise DataError(f"{path} is missing: generate again to make it anew")
        check_shard(Path(path), expected)
    source = builder.as_data_source(split, decoders={"image": _KeepPng()})
    return [
        Episode.from_record(source[i], f"{data_dir} {split} record {i}")
        for i in range(len(source))
    ]


class _KeepPng(tfds.decode.SkipDecoding):
    """Leaves a sequence of frames encoded; TFDS's own class does so for TensorFlow."""

    def decode_batch_example_np(self, serialized):
        return serialized


def _decode(episode: Episode, t: int) -> np.ndarray:
    try:
        return decode_png(episode.image[t])
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"episode {episode.episode}: frame {t} cannot be decoded ({error})"
        ) from error
