"""Writing of TFDS folders with ArrayRecord shards, without TensorFlow.

    DIR/board-train.array_record-00000-of-00017   episodes, one record each
    DIR/features.json                             the schema, as TFDS reads it
    DIR/dataset_info.json                         splits and shard lengths

`tfds.builder_from_directory(DIR).as_data_source("train")` opens it. Frames are encoded
as PNG or JPEG before they are passed in, so TFDS only packs bytes, which needs no
TensorFlow. Shards are written to a temporary name and renamed, so a file with a
shard's name is complete; `dataset_info.json` is written last, so a folder with it is
complete.
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
# One record per chunk for random access, as TFDS writes; zstd level 1, as frames are
# compressed already.
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
    """Assignment of episodes to shards, a pure function of the arguments.

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
    """Writes a shard atomically.

    Args:
      path: the file.
      episodes: any iterable; consumed one at a time.
      schema: of the folder.

    Returns:
      The number of episodes written.

    Raises:
      DataError: an invalid episode, or a failed write, e.g. a full disk.
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
            # Deterministic bytes, as the order of a protobuf map is unspecified.
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
    """Removes partial files of an interrupted run."""
    for path in directory.glob(f"{_PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def open_shard(path: Path, expected: int) -> Any:
    """Reader of a shard that must have `expected` records.

    Raises:
      DataError: a truncated or damaged shard; names the file.
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
    """Verifies a shard by reading all of it; ArrayRecord checks each record's hash.

    Raises:
      DataError: a truncated shard or a damaged record; names the file.
    """
    reader = open_shard(path, expected)
    try:
        reader.read_all()
        reader.close()
    except (OSError, RuntimeError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception, where: str = "") -> DataError:
    """Error for an unreadable shard; `where` is put before the reason."""
    return DataError(f"{path} is damaged ({where}{first_line(error)}); {_ADVICE}")


def write_info(
    shards: Sequence[Shard],
    counts: Sequence[int],
    schema: Schema,
    description: str,
    name: str = "board",
) -> None:
    """Writes TFDS's metadata, which marks the folder as complete.

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
    # dataset_info.json last: its presence means that the folder is complete.
    for path in sorted(partial.iterdir(), key=lambda p: p.name == "dataset_info.json"):
        _sync(path)
        os.replace(path, directory / path.name)
    partial.rmdir()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
