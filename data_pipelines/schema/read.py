"""Reading of data sets in our schema.

`load_episodes("data/board", "val")` is the entry for training, evaluation and reports.
Records are parsed by TFDS (without TensorFlow); frames are decoded by Pillow in
threads, on loading or on access (`frames`). Damaged data raise an error of one line
that names the file, or are skipped and counted where the caller passes a list.
"""

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.schema.arrays import EpisodeArrays, first_frames, stack_episodes
from data_pipelines.schema.episode import DataError, Episode, frame_size
from data_pipelines.schema.frames import MODES, FrameStore, RecordFrames, decode_as
from data_pipelines.schema.store import VERSIONS, damaged, open_shard
from swm_jax.choices import first_line
from swm_jax.files import user_path

_MAKE = (
    "make it with `python -m data_pipelines.generate`, or from other data with "
    "`python -m data_pipelines.convert`"
)


def open_dataset(data_dir: str | Path) -> tfds.core.DatasetBuilder:
    """TFDS builder of a folder in our schema.

    Raises:
      DataError: a missing, empty, unfinished or damaged folder, another format, or
        another schema version.
    """
    data_dir = Path(user_path(data_dir))
    if not data_dir.is_dir():
        raise DataError(f"no data set at {data_dir}: {_MAKE}")
    if not (data_dir / "dataset_info.json").exists():
        if not any(data_dir.iterdir()):
            raise DataError(f"{data_dir} is empty: {_MAKE}")
        if (data_dir / "meta" / "info.json").exists():
            raise DataError(
                f"{data_dir} is a LeRobot data set: convert it first with "
                f"`python -m data_pipelines.convert {data_dir} NEW_FOLDER`"
            )
        raise DataError(
            f"{data_dir} has no dataset_info.json: its generation was not finished; "
            "run it again with the same --config and --output"
        )
    try:
        builder = tfds.builder_from_directory(str(data_dir))
        version = str(builder.info.version)
    except Exception as error:  # TFDS raises many kinds for broken metadata
        reason = first_line(error)
        raise DataError(f"{data_dir}: metadata is damaged ({reason})") from error
    features: Any = builder.info.features
    if "steps" in features:
        raise DataError(
            f"{data_dir} is an RLDS data set: convert it first with "
            f"`python -m data_pipelines.convert {data_dir} NEW_FOLDER`"
        )
    if version not in VERSIONS:
        raise DataError(
            f"{data_dir} has schema version {version}, this code reads "
            f"{' and '.join(VERSIONS)}: generate the data again"
        )
    return builder


def load_episodes(
    data_dir: str | Path,
    split: str = "train",
    *,
    frames: str = "memory",
    size: tuple[int, int] | None = None,
    skipped: list[str] | None = None,
) -> EpisodeArrays:
    """Episodes of a split as arrays; states and actions are in memory.

    Args:
      data_dir: the data set's folder.
      split: "train" or "val".
      frames: "memory", "compressed" or "disk" (see `frames`).
      size: (height, width) to resize frames to; None keeps the stored size.
      skipped: list to which a line is added for each damaged record or episode with
        damaged frames, which are left out; None raises at the first. Damaged frames of
        "compressed" and "disk" raise on access.

    Raises:
      DataError: as `open_dataset`; an unknown split or mode; no intact episode; or,
        without `skipped`, a missing or truncated shard or an invalid record.
    """
    if frames not in MODES:
        raise DataError(f"frames is '{frames}', expected one of {', '.join(MODES)}")
    found = list(_records(data_dir, split, skipped))
    if not found:
        raise DataError(f"{data_dir}: no whole episode in split '{split}'")
    episodes = [episode for _, _, episode in found]
    first = first_frames(episodes)
    stored = frame_size(episodes[0].image[0])[1:]
    shape = (int(first[-1]), *(size or stored), 3)
    if frames == "memory":
        where = f"{data_dir} {split}"
        decoded = np.empty(shape, np.uint8)
        whole = _decode_all(episodes, first, decoded, size is not None, where, skipped)
        if not len(whole):
            raise DataError(f"{data_dir}: no whole episode in split '{split}'")
        return stack_episodes(episodes, decoded).select(whole)
    if frames == "compressed":
        fetch = list(
            itertools.chain.from_iterable(e.image for e in episodes)
        ).__getitem__
    else:
        fetch = RecordFrames([(path, i) for path, i, _ in found], first)
    return stack_episodes(
        episodes, FrameStore(fetch, shape[0], shape[1:3], resize=size is not None)
    )


def read_episodes(
    data_dir: str | Path, split: str = "train", skipped: list[str] | None = None
) -> Sequence[Episode]:
    """Episodes of a split with encoded frames; errors as of `load_episodes`."""
    return [episode for _, _, episode in _records(data_dir, split, skipped)]


def first_episode(data_dir: str | Path, split: str = "train") -> Episode:
    """First intact episode of a split, from which domain and widths can be read.

    Raises:
      DataError: as `load_episodes`; no intact episode.
    """
    for _, _, episode in _records(data_dir, split, []):
        return episode
    raise DataError(f"{data_dir}: no whole episode in split '{split}'")


def _records(data_dir, split, skipped):
    """Yields (shard, index in it, episode) of a split."""
    builder = open_dataset(data_dir)
    splits = builder.info.splits
    if split not in splits:
        raise DataError(
            f"{data_dir} has no split '{split}'; it has {', '.join(splits) or 'none'}"
        )
    info, number = splits[split], 0
    features = builder.info.features
    for path, expected in zip(map(Path, info.filepaths), info.shard_lengths):
        for index, record in _shard(path, expected, skipped):
            name = f"{data_dir} {split} record {number + index}"
            try:
                yield path, index, _parse(features, record, name)
            except DataError as error:
                _tell(error, skipped)
        number += expected


def _shard(path: Path, expected: int, skipped):
    """Yields (index, record) of a shard; ArrayRecord checks each record's hash."""
    try:
        if not path.exists():
            raise DataError(f"{path} is missing: generate again to make it anew")
        reader = open_shard(path, expected)
    except DataError as error:
        _tell(error, skipped, expected)
        return
    for index in range(expected):
        try:
            yield index, reader.read([index])[0]
        except (OSError, RuntimeError) as error:
            _tell(damaged(path, error, f"record {index}: "), skipped)
    reader.close()


def _tell(error: DataError, skipped: list[str] | None, count: int = 1) -> None:
    """Raises the error, or adds it to `skipped` once per lost episode."""
    if skipped is None:
        raise error
    skipped += [str(error)] * count


def _parse(features, record: bytes, name: str) -> Episode:
    try:
        fields = features.deserialize_example_np(
            record, decoders={"image": _KeepFiles()}
        )
    except Exception as error:  # protobuf and TFDS raise many kinds
        reason = first_line(error)
        raise DataError(f"{name} cannot be parsed ({reason})") from error
    return Episode.from_record(fields, name)


class _KeepFiles(tfds.decode.SkipDecoding):
    """Decoder that keeps a sequence of frames encoded.

    TFDS's `SkipDecoding` does so in TensorFlow pipelines only.
    """

    def decode_batch_example_np(self, serialized):
        return serialized


def _decode_all(episodes, first, decoded, resize, where, skipped):
    """Decodes frames into `decoded` in threads; returns the rows of intact episodes."""

    def fill(row: int) -> bool:
        episode = episodes[row]
        try:
            for t, file in enumerate(episode.image):
                name = f"{where} episode {episode.episode}: frame {t}"
                size = decoded.shape[1:3]
                decoded[first[row] + t] = decode_as(file, size, resize, name)
        except DataError as error:
            _tell(error, skipped)
            return False
        return True

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return np.flatnonzero(list(threads.map(fill, range(len(episodes)))))
