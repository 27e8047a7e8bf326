"""The board data set as TFDS lays it out, ArrayRecord shards, without TensorFlow.

    DIR/board-train.array_record-00000-of-00017   episodes, one record each
    DIR/features.json                             the schema, as TFDS reads it
    DIR/dataset_info.json                         splits and shard lengths

`tfds.builder_from_directory(DIR).as_data_source("train")` opens it. TensorFlow is
not needed because frames arrive as PNG files already: TFDS then only packs bytes.
A shard is written under another name and renamed, so a file that bears a shard's
name is whole; `dataset_info.json` comes last, so a folder that has it is whole.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipelines.episodes import SCHEMA_VERSION, DataError, Episode, validate

NAME = "board"
SPLITS = ("train", "val")
VERSION = f"{SCHEMA_VERSION}.0.0"
_WRITER_OPTIONS = "group_size:1"  # one record per chunk: random access, as TFDS does
_PARTIAL = "partial."  # prefix of a file being written; never a shard's name


def features(height: int, width: int) -> tfds.features.FeaturesDict:
    """The TFDS features of an episode with frames of this size."""
    frame = tfds.features.Image(
        shape=(height, width, 3), dtype=np.uint8, encoding_format="png"
    )
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Sequence(frame),
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


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which episode lies in which shard; a pure function of these numbers.

    Attributes:
      directory: the data set's folder.
      episodes: episodes of each split, in the order of `SPLITS`; the numbers of
        later splits follow those of earlier ones.
      episodes_per_shard: all shards have as many but a split's last.
    """

    directory: Path
    episodes: tuple[int, ...]
    episodes_per_shard: int

    def shards(self) -> list["Shard"]:
        """All shards, in the order in which they are made."""
        found, first = [], 0
        for split, count in zip(SPLITS, self.episodes):
            total = -(-count // self.episodes_per_shard)
            for index in range(total):
                start = index * self.episodes_per_shard
                stop = min(start + self.episodes_per_shard, count)
                name = f"{NAME}-{split}.array_record-{index:05d}-of-{total:05d}"
                numbers = range(first + start, first + stop)
                found.append(Shard(self.directory / name, split, numbers))
            first += count
        return found


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file and the episodes in it.

    Attributes:
      path: the file.
      split: "train" or "val".
      numbers: the numbers of its episodes.
    """

    path: Path
    split: str
    numbers: range


def write_shard(shard: Shard, episodes: Sequence[Episode], height: int, width: int):
    """Writes a shard whole or not at all.

    Raises:
      DataError: an episode breaks the schema, or the file cannot be written (the
        disk is full, say).
    """
    schema = features(height, width)
    serializer = ExampleSerializer(schema.get_serialized_info())

    def serialize(episode: Episode) -> bytes:
        # Deterministic, as a protobuf map has no order of its own.
        example = serializer.get_tf_example(schema.encode_example(episode.record()))
        return example.SerializeToString(deterministic=True)

    for episode in episodes:
        validate(episode, f"episode {episode.episode}")
    partial = shard.path.with_name(_PARTIAL + shard.path.name)
    try:
        writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
        for episode in episodes:
            writer.write(serialize(episode))
        writer.close()
        _sync(partial)
        if count_records(partial) != len(episodes):
            raise OSError("it reads back shorter than it was written")
        os.replace(partial, shard.path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        reason = str(error).splitlines()[0]
        raise DataError(f"cannot write {shard.path}: {reason}") from error


def remove_partial(directory: Path) -> None:
    """Removes what an interrupted run left half-written."""
    for path in directory.glob(f"{_PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def count_records(path: Path) -> int:
    """Records in a shard; 0 for a file that was cut off."""
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        return reader.num_records()
    finally:
        reader.close()


def check_shard(path: Path, expected: int) -> None:
    """Reads a shard whole; ArrayRecord checks the hash of every record.

    Raises:
      DataError: it is cut off or a record is damaged; names the file.
    """
    advice = "delete it and generate again to make it anew"
    try:
        found = count_records(path)
        if found != expected:
            raise DataError(
                f"{path} holds {found} readable records, expected {expected}: it is "
                f"damaged; {advice}"
            )
        reader = array_record_module.ArrayRecordReader(str(path))
        reader.read_all()
        reader.close()
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is damaged ({reason}); {advice}") from error


def write_info(layout: Layout, height: int, width: int, description: str) -> None:
    """Writes what TFDS needs to open the folder; the last thing to be written."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=layout.directory, dataset_name=NAME, filetype_suffix="array_record"
    )
    by_split: Mapping[str, list[Shard]] = {split: [] for split in SPLITS}
    for shard in layout.shards():
        by_split[shard.split].append(shard)
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(shard.numbers) for shard in shards],
            num_bytes=sum(shard.path.stat().st_size for shard in shards),
            filename_template=template.replace(split=split),
        )
        for split, shards in by_split.items()
        if shards
    ]
    partial = layout.directory / f"{_PARTIAL}info"
    partial.mkdir(exist_ok=True)
    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            name=NAME,
            version=tfds.core.Version(VERSION),
            data_dir=str(layout.directory),
            module_name="",
        ),
        features=features(height, width),
        description=description,
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(partial)
    for path in sorted(partial.iterdir(), key=lambda p: p.name == "dataset_info.json"):
        _sync(path)
        os.replace(path, layout.directory / path.name)
    partial.rmdir()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
