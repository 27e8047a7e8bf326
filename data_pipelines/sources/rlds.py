"""Reader of the `language_table*` data sets: RLDS episodes in TFDS shards.

A folder has `NAME-SPLIT.tfrecord-00000-of-00100` (or `.array_record-`) files and
TFDS's `dataset_info.json`. A record is an episode; its steps are concatenated in flat
features:

    steps/observation/rgb                          encoded picture, (360, 640, 3)
    steps/observation/instruction                  int64, 512 per step: UTF-8, then 0
    steps/observation/effector_translation         float, 2 per step, metres
    steps/observation/effector_target_translation  float, 2 per step, metres
    steps/action                                   float, 2 per step, metres
    steps/reward, steps/is_first, steps/is_last, steps/is_terminal

Axis: N steps, with N frames; the frame after the last action is missing.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.raw import RawEpisode, SourceKind
from data_pipelines.sources.tables import json_fields, shown
from data_pipelines.sources.tfrecords import (
    ArrayRecordFile,
    TFRecordFile,
    parse_example,
)

_SHARD = re.compile(
    r"(?P<name>.+)-(?P<split>\w+)\.(?P<kind>tfrecord|array_record)-"
    r"(?P<index>\d{5})-of-(?P<total>\d{5})"
)
_OBSERVATION = "steps/observation/"
_FPS = 10.0  # control steps per second of the simulator and the robot


class LanguageTable:
    """A folder of one of the `language_table*` data sets.

    Attributes:
      name, domain, fps, splits: see `raw.Source`.
    """

    domain, fps = "language_table", _FPS

    def __init__(self, path: Path, skipped: list[str] | None = None):
        """Opens all shards.

        Args:
          path: the folder of a version, `.../language_table/0.0.1`.
          skipped: list to which a line is added per damaged or missing shard; None
            raises.

        Raises:
          DataError: no shards, or a missing or damaged shard.
        """
        self.path = path
        shards = sorted(p for p in path.iterdir() if _SHARD.fullmatch(p.name))
        if not shards:
            raise DataError(f"{path} holds no file like NAME-train.tfrecord-00000-of-*")
        name = _parts(shards[0])["name"]
        self.name = f"RLDS {name}"
        self._policy = "oracle" if "oracle" in name else "human"
        expected = _shard_lengths(path)
        self._places: list[tuple[Any, int]] = []
        self.splits: dict[str, list[int]] = {}
        for problem in _missing(path, shards):
            _tell(DataError(problem), skipped)
        for shard in shards:
            found = _parts(shard)
            split, index = found["split"], int(found["index"])
            opened = TFRecordFile if found["kind"] == "tfrecord" else ArrayRecordFile
            try:
                file = opened(shard)
                told = expected.get(split, {}).get(index)
                if told is not None and told != len(file):
                    raise DataError(
                        f"{shard} holds {len(file)} records, dataset_info.json says "
                        f"{told}"
                    )
            except DataError as error:
                _tell(error, skipped)
                continue
            first = len(self._places)
            self._places += [(file, i) for i in range(len(file))]
            numbers = range(first, len(self._places))
            self.splits.setdefault(split, []).extend(numbers)

    def read(self, number: int) -> RawEpisode:
        """One episode; raises a DataError if its record is damaged or mismatched."""
        file, index = self._places[number]
        name = f"{file.path} record {index}"
        features = parse_example(file.read(index), name)
        pictures = _feature(features, _OBSERVATION + "rgb", name)
        if not isinstance(pictures, list):
            raise DataError(
                f"{name}: {_OBSERVATION}rgb is numbers, expected encoded pictures"
            )
        steps = len(pictures)
        if steps < 2:
            raise DataError(f"{name} has {steps} steps, expected at least 2")

        def table(key: str, width: int, dtype: Any = np.float32):
            values = _feature(features, key, name)
            if isinstance(values, list):
                raise DataError(f"{name}: {key} is bytes, expected numbers")
            if values.size != steps * width:
                raise DataError(
                    f"{name}: {key} has {values.size} numbers for {steps} steps, "
                    f"expected {width} per step"
                )
            return values.reshape(steps, width).astype(dtype)

        words = _feature(features, _OBSERVATION + "instruction", name)
        if isinstance(words, list):  # a text feature, as some re-encodings have it
            instruction = words[0].decode("utf-8", "replace") if words else ""
        else:
            instruction = _decode(table(_OBSERVATION + "instruction", 512, np.int64)[0])
        return RawEpisode(
            frames=pictures,
            action=table("steps/action", 2),
            state={
                "effector": table(_OBSERVATION + "effector_translation", 2),
                "effector_target": table(
                    _OBSERVATION + "effector_target_translation", 2
                ),
            },
            instruction=instruction,
            policy=self._policy,
        )


def _decode(codes: np.ndarray) -> str:
    """Text of UTF-8 codes padded with zeros."""
    return bytes(codes[codes != 0].astype(np.uint8).tolist()).decode("utf-8", "replace")


def _feature(features: Mapping[str, Any], key: str, name: str) -> Any:
    if key not in features:
        raise DataError(
            f"{name} lacks the feature '{key}', it has {', '.join(sorted(features))}"
        )
    return features[key]


def _shard_lengths(path: Path) -> dict[str, dict[int, int]]:
    """split -> shard index -> records, from `dataset_info.json`; empty without it."""
    info = path / "dataset_info.json"
    if not info.exists():
        return {}
    splits = json_fields(info).values.get("splits")
    try:
        return {
            split["name"]: dict(enumerate(map(int, split["shardLengths"])))
            for split in splits or ()
        }
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{info}: splits is {shown(splits)}, expected a name and shardLengths each"
        ) from error


def _parts(shard: Path) -> re.Match[str]:
    """Name, split, kind, index and total of a shard, from its file name."""
    found = _SHARD.fullmatch(shard.name)
    if found is None:
        raise DataError(f"{shard} is no shard")
    return found


def _missing(path: Path, shards: list[Path]) -> list[str]:
    """One line per missing shard, by the totals in the other shards' names."""
    found: dict[tuple[str, str, str, str], set[int]] = {}
    for shard in shards:
        parts = _parts(shard)
        key = parts["name"], parts["split"], parts["kind"], parts["total"]
        found.setdefault(key, set()).add(int(parts["index"]))
    return [
        f"{path / name}-{split}.{kind}-{index:05d}-of-{total} is missing"
        for (name, split, kind, total), indices in found.items()
        for index in range(int(total))
        if index not in indices
    ]


def _tell(error: DataError, skipped: list[str] | None) -> None:
    if skipped is None:
        raise error
    skipped.append(str(error))


def _matches(path: Path) -> bool:
    if path.is_dir() and any(path.glob("*.tfrecord-*-of-*")):
        return True
    features = path / "features.json"
    return features.is_file() and b'"steps"' in features.read_bytes()


KIND = SourceKind(
    name="language_table",
    title="Language-Table",
    layout="NAME-SPLIT.tfrecord-* or RLDS array_record files",
    matches=_matches,
    open=lambda path, camera, skipped: LanguageTable(path, skipped),
)
