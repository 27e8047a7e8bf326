"""Conversion of any source to our schema, shard by shard.

A shard is a function of the source and the settings, so that an interrupted conversion
resumes when it is run again.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.schema import store as folder
from data_pipelines.schema.episode import (
    SCHEMA_VERSION,
    DataError,
    Episode,
    decode_frame,
    encode_frame,
    frame_size,
    validate,
)
from data_pipelines.schema.features import Schema, schema_of_shard
from data_pipelines.schema.output_folder import claim_settings, claimed, write_json
from data_pipelines.sources import RawEpisode, Source, open_source
from swm_jax.cli import Progress

SETTINGS_FILE = "conversion.json"
_SHARE_LIMITS = (0.0, 0.5)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a conversion.

    Attributes:
      size: (height, width) of the stored frames; None keeps the source's.
      encoding: "png" or "jpeg"; "" keeps files of the right size, others become PNG.
      camera: name, for a source with several.
      val_share: validation share, for a source without splits.
      max_episodes: number of leading episodes to convert; 0 for all.
      episodes_per_shard: episodes per file.
      max_steps: largest number of actions of an episode; longer recordings are cut
        into several episodes, so that records stay small. 0 for no limit.
      on_damage: "raise" or "skip".
    """

    size: tuple[int, int] | None = (224, 224)
    encoding: str = ""
    camera: str | None = None
    val_share: float = 0.1
    max_episodes: int = 0
    episodes_per_shard: int = 64
    max_steps: int = 256
    on_damage: str = "raise"

    def check(self) -> None:
        """Raises a DataError for an invalid value."""
        low, high = _SHARE_LIMITS
        rules = {
            "encoding": (self.encoding in ("", "png", "jpeg"), "png or jpeg"),
            "val_share": (low < self.val_share <= high, f"above {low}, at most {high}"),
            "on_damage": (self.on_damage in ("raise", "skip"), "raise or skip"),
            "episodes_per_shard": (self.episodes_per_shard >= 1, "at least 1"),
            "max_steps": (self.max_steps >= 0, "at least 0"),
            "max_episodes": (self.max_episodes >= 0, "at least 0"),
        }
        for field, (good, expected) in rules.items():
            if not good:
                raise DataError(
                    f"{field} is {getattr(self, field)!r}, expected {expected}"
                )


@dataclasses.dataclass
class Converted:
    """Result of a conversion.

    Attributes:
      episodes: number stored, including earlier runs of the same conversion.
      skipped: one line per episode or shard that was left out.
    """

    episodes: int
    skipped: list[str]


def convert(
    source_path: str | Path, output: str | Path, settings: Settings | None = None
) -> Converted:
    """Converts a data set, or resumes a conversion; prints progress.

    Raises:
      DataError: unknown, missing or damaged data, invalid settings, a folder with other
        content, or a full disk.
    """
    settings = settings or Settings()
    settings.check()
    source_path = Path(source_path)
    opening = [] if settings.on_damage == "skip" else None
    source = open_source(source_path, camera=settings.camera, skipped=opening)
    about = {"source": str(source_path.resolve()), "kind": source.name}
    return convert_source(source, output, settings, about, opening or ())


def convert_source(
    source: Source,
    output: str | Path,
    settings: Settings,
    about: Mapping[str, Any],
    opening: Sequence[str] = (),
) -> Converted:
    """Writes the episodes of an opened source to a folder, or resumes.

    Args:
      source: the reader.
      output: the folder.
      settings: of the conversion.
      about: further settings that determine the result; they are stored with the
        folder, and resuming requires the same.
      opening: lines on parts that were skipped when the source was opened.

    Raises:
      DataError: as `convert`.
    """
    settings.check()
    output, name = Path(output), source.domain
    splits = split_episodes(source, settings)
    shards = folder.make_shards(output, splits, settings.episodes_per_shard, name)
    with claimed(output):
        wanted = {
            "schema_version": SCHEMA_VERSION,
            **about,
            "settings": dataclasses.asdict(settings),
        }
        wanted = json.loads(json.dumps(wanted))  # tuples become lists, as when read
        claim_settings(output / SETTINGS_FILE, wanted)
        folder.remove_partial(output)
        done = _Progress(output / "progress.json", opening)
        print(
            f"{source.name}: {sum(map(len, splits.values()))} episodes in "
            f"{len(shards)} shards, {len(done.shards)} of them there already, to "
            f"{output}",
            flush=True,
        )
        schema = _convert_shards(source, shards, settings, done)
        described = json.dumps({**wanted, "skipped": done.skipped}, sort_keys=True)
        counts = [done.shards[shard.path.name][0] for shard in shards]
        if schema is None:
            raise DataError(
                f"{source.name}: no episode could be converted, the first problem: "
                f"{done.skipped[0] if done.skipped else 'there are none'}"
            )
        folder.write_info(shards, counts, schema, described, name)
    return Converted(sum(counts), done.skipped)


def split_episodes(source: Source, settings: Settings) -> dict[str, Sequence[int]]:
    """Episode numbers of "train" and "val"; the source's own splits where it has both.

    Without a validation split every `1 / val_share`-th episode is taken for it.
    """
    known = {"train": "train", "val": "val", "validation": "val", "test": "val"}
    own: dict[str, list[int]] = {}
    for name, numbers in source.splits.items():
        own.setdefault(known.get(name, "train"), []).extend(numbers)
    train, val = own.get("train", []), own.get("val", [])
    if settings.max_episodes:
        train = train[: settings.max_episodes]
        val = val[: max(settings.max_episodes // 10, 1)]
    if not val:
        if len(train) < 2:
            raise DataError(
                f"{len(train)} episodes cannot be split into train and val, expected "
                "at least 2"
            )
        every = max(round(1 / settings.val_share), 2)
        val = train[every - 1 :: every] or train[-1:]
        train = [number for number in train if number not in set(val)]
    return {"train": train, "val": val}


class _Progress:
    """Shards written and episodes skipped so far, stored in `progress.json`.

    Attributes:
      shards: name of each written shard -> (number of episodes, lines on skipped ones).
    """

    def __init__(self, path: Path, opening: Sequence[str]):
        self._path, self._opening = path, list(opening)
        self.shards: dict[str, tuple[int, list[str]]] = {}
        if path.exists():
            try:
                stored = json.loads(path.read_text())
                self.shards = {
                    name: (int(about["count"]), list(about["skipped"]))
                    for name, about in stored.items()
                    if path.with_name(name).exists()
                }
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path} is damaged ({error!r}): delete it") from error

    @property
    def skipped(self) -> list[str]:
        """One line per skipped episode or shard."""
        lines = [line for _, some in self.shards.values() for line in some]
        return self._opening + lines

    def add(self, name: str, count: int, skipped: Sequence[str]) -> None:
        self.shards[name] = count, list(skipped)
        stored = {n: {"count": c, "skipped": s} for n, (c, s) in self.shards.items()}
        write_json(self._path, stored)


def _convert_shards(source, shards, settings, done) -> Schema | None:
    """Writes the missing shards and returns the schema; None if there is no episode."""
    start, frames, schema, waiting = time.perf_counter(), 0, None, []
    todo = [shard for shard in shards if shard.path.name not in done.shards]
    for shard in shards:
        if done.shards.get(shard.path.name, (0,))[0]:
            schema = schema_of_shard(shard.path)
            break
    progress = Progress("converted", len(todo), "shards", quiet=0.0)
    for number, shard in enumerate(todo, 1):
        episodes, skipped = [], []
        for index in shard.numbers:
            try:
                for episode in to_episodes(source, index, settings):
                    validate(episode, f"episode {index}")
                    schema = schema or Schema.of(episode)
                    schema.check(episode, f"episode {index}")
                    episodes.append(episode)
            except DataError as error:
                if settings.on_damage == "raise":
                    raise
                skipped.append(f"episode {index}: {error}")
        if schema is None:  # an empty shard needs the schema of a later one
            waiting.append((shard, skipped))
            continue
        count = folder.write_shard(shard.path, episodes, schema)
        done.add(shard.path.name, count, skipped)
        frames += sum(len(e) + 1 for e in episodes)
        progress(
            number,
            f"{count} episodes, {len(done.skipped)} skipped, "
            f"{frames / (time.perf_counter() - start):.0f} frames/s",
        )
    for shard, skipped in waiting:
        if schema is not None:
            folder.write_shard(shard.path, [], schema)
        done.add(shard.path.name, 0, skipped)
    return schema


def to_episodes(source: Source, number: int, settings: Settings) -> Iterator[Episode]:
    """One recording as episodes of at most `settings.max_steps` actions.

    Raises:
      DataError: as `source.read`, or numbers of actions and frames that differ.
    """
    raw = source.read(number)
    name = f"episode {number}"
    count = len(raw.frames)
    if len(raw.action) != count:
        raise DataError(
            f"{name}: {len(raw.action)} actions for {count} frames, expected as many"
        )
    files = _encode_frames(raw, settings, name)
    most = settings.max_steps or count - 1  # the last action leads to no stored frame
    fields = {
        "seed": 0,
        "domain": source.domain,
        "source": source.name,
        "instruction": raw.instruction,
        "fps": source.fps,
        "policy": raw.policy,
    }
    for part, first in enumerate(range(0, count - 1, most)):
        last = min(first + most, count - 1)
        cut = slice(first, last + 1)  # parts share a frame: end of one, start of next
        yield Episode(
            image=files[cut],
            action=np.asarray(raw.action[first:last], np.float32),
            state={
                key: value[cut] if len(value) == count else value
                for key, value in raw.state.items()
            },
            episode=number * 1000 + part if count - 1 > most else number,
            **fields,
        )


def _encode_frames(raw: RawEpisode, settings: Settings, name: str) -> list[bytes]:
    """PNG or JPEG files of a recording's frames, resized to the settings' size."""
    files = []
    for t, frame in enumerate(raw.frames):
        if isinstance(frame, bytes):
            kind, *size = frame_size(frame)
            fits = settings.size in (None, tuple(size))
            if fits and kind == (settings.encoding or kind) and kind in ("png", "jpeg"):
                files.append(frame)
                continue
            try:
                frame = decode_frame(frame)
            except (OSError, ValueError, SyntaxError) as error:
                raise DataError(
                    f"{name}: frame {t} cannot be decoded ({error})"
                ) from error
        if settings.size is not None and frame.shape[:2] != tuple(settings.size):
            # Area average, as in the renderers' supersampling.
            height, width = settings.size
            picture = Image.fromarray(frame).resize(
                (width, height), Image.Resampling.BOX
            )
            frame = np.asarray(picture)
        files.append(encode_frame(frame, settings.encoding or "png"))
    return files
