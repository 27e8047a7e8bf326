"""A data set's folder as TFDS lays it out, ArrayRecord shards, without TensorFlow.

    DIR/board-train.array_record-00000-of-00017   episodes, one record each
    DIR/features.json                             the schema, as TFDS reads it
    DIR/dataset_info.json                         splits and shard lengths

`tfds.builder_from_directory(DIR).as_data_source("train")` opens it. TensorFlow is
not needed because frames arrive as PNG or JPEG files already: TFDS only packs bytes.
A shard is written under another name and renamed, so a file that bears a shard's
name is whole; `dataset_info.json` comes last, so a folder that has it is whole.
"""

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath
from tensorflow_datasets.core import dataset_info
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.splits import SplitDict

from data_pipelines.schema.episode import (
    READABLE,
    SCHEMA_VERSION,
    DataError,
    Episode,
    validate,
)
from data_pipelines.schema.features import Schema
from swm_jax.choices import first_line

SPLITS = ("train", "val")
VERSION = f"{SCHEMA_VERSION}.0.0"
VERSIONS = tuple(f"{version}.0.0" for version in READABLE)
# One record per chunk: random access, as TFDS does. Frames are packed already.
_WRITER_OPTIONS = "group_size:1,zstd:1"
_ADVICE = "delete it and generate again to make it anew"
_PARTIAL = "partial."  # prefix of a file being written; never a shard's name


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
    numbers: Sequence[int]


def make_shards(
    directory: Path, splits: Mapping[str, Sequence[int]], size: int, name: str = "board"
) -> list[Shard]:
    """Which episode lies in which shard, a pure function of these arguments.

    Args:
      directory: the data set's folder.
      splits: the numbers of each split's episodes.
      size: episodes of a shard; a split's last may have fewer.
      name: of the data set, the beginning of every shard's name.

    Returns:
      All shards, in the order in which they are made.
    """
    shards = []
    for split, numbers in splits.items():
        parts = [numbers[at : at + size] for at in range(0, len(numbers), size)]
        for i, part in enumerate(parts):
            file = f"{name}-{split}.array_record-{i:05d}-of-{len(parts):05d}"
            shards.append(Shard(directory / file, split, part))
    return shards


def write_shard(path: Path, episodes: Iterable[Episode], schema: Schema) -> int:
    """Writes a shard whole or not at all.

    Args:
      path: the file.
      episodes: any iterable; each is written as it comes.
      schema: of the folder.

    Returns:
      How many episodes were written.

    Raises:
      DataError: an episode breaks the schema, or the file cannot be written (the
        disk is full, say).
    """
    features = schema.features()
    specs: Any = features.get_serialized_info()
    serializer = ExampleSerializer(specs)
    partial, count = path.with_name(_PARTIAL + path.name), 0
    try:
        writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
        for episode in episodes:
            validate(episode, f"episode {episode.episode}")
            schema.check(episode, f"episode {episode.episode}")
            example = features.encode_example(episode.record())
            # Deterministic, as a protobuf map has no order of its own.
            example = serializer.get_tf_example(example)
            writer.write(example.SerializeToString(deterministic=True))
            count += 1
        writer.close()
        _sync(partial)
        reader = array_record_module.ArrayRecordReader(str(partial))
        if reader.num_records() != count:
            raise OSError("it reads back shorter than it was written")
        reader.close()
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot write {path}: {first_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def remove_partial(directory: Path) -> None:
    """Removes what an interrupted run left half-written."""
    for path in directory.glob(f"{_PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def open_shard(path: Path, expected: int) -> Any:
    """A reader of a shard with so many records.

    Raises:
      DataError: it is cut off or damaged; names the file.
    """
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        found = reader.num_records()
    except (OSError, RuntimeError) as error:
        raise damaged(path, error) from error
    if found != expected:
        raise DataError(
            f"{path} holds {found} readable records, expected {expected}: it is "
            f"damaged; {_ADVICE}"
        )
    return reader


def check_shard(path: Path, expected: int) -> None:
    """Reads a shard whole; ArrayRecord checks the hash of every record.

    Raises:
      DataError: it is cut off or a record is damaged; names the file.
    """
    reader = open_shard(path, expected)
    try:
        reader.read_all()
        reader.close()
    except (OSError, RuntimeError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception, where: str = "") -> DataError:
    """The error of a shard that cannot be read; `where` begins the reason."""
    return DataError(f"{path} is damaged ({where}{first_line(error)}); {_ADVICE}")


def write_info(
    shards: Sequence[Shard],
    counts: Sequence[int],
    schema: Schema,
    description: str,
    name: str = "board",
) -> None:
    """Writes what TFDS needs to open the folder; the last thing to be written.

    Args:
      shards: all of them, in one folder.
      counts: episodes in each; fewer than planned where some were skipped.
      schema: of the episodes.
      description: free text; generation and conversion put their settings there.
      name: of the data set.
    """
    directory = shards[0].path.parent
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(directory),
        dataset_name=name,
        filetype_suffix="array_record",
    )
    splits = []
    for split in SPLITS:
        mine = [(s, n) for s, n in zip(shards, counts) if s.split == split]
        if mine:
            info = tfds.core.SplitInfo(
                name=split,
                shard_lengths=[count for _, count in mine],
                num_bytes=sum(shard.path.stat().st_size for shard, _ in mine),
                filename_template=template.replace(split=split),
            )
            splits.append(info)
    partial = directory / f"{_PARTIAL}info"
    partial.mkdir(exist_ok=True)
    info = tfds.core.DatasetInfo(
        builder=dataset_info.DatasetIdentity(
            name=name,
            version=tfds.core.Version(VERSION),
            data_dir=str(directory),
            module_name="",
        ),
        features=schema.features(),
        description=description,
    )
    info.set_file_format("array_record")
    info.set_splits(SplitDict(splits))
    info.write_to_directory(partial)
    for path in sorted(partial.iterdir(), key=lambda p: p.name == "dataset_info.json"):
        _sync(path)
        os.replace(path, directory / path.name)
    partial.rmdir()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
