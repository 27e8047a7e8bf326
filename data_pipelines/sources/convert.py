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
    is_rgb,
    validate,
)
from data_pipelines.schema.features import Schema, schema_of_shard
from data_pipelines.schema.output_folder import claim_settings, claimed, write_json
from data_pipelines.sources import RawEpisode, Source, open_source
from data_pipelines.sources.splits import split_episodes
from swm_jax.cli import Progress
from swm_jax.files import local_path, parse_json, read_text, user_path

SETTINGS_FILE = "conversion.json"
_SHARE_LIMITS = (0.0, 0.5)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a conversion.

    Attributes:
      size: (height, width) of the stored frames; None keeps the source's.
      encoding: "png" or "jpeg"; "" keeps files of the right size, others become PNG.
      camera, action, state: names of features, for a source where they have some.
      val_share: validation share, for a source without splits.
      max_episodes: number of leading episodes to convert; 0 for all.
      episodes_per_shard: episodes per file.
      max_steps: largest number of actions of an episode; longer recordings are cut
        into several episodes, so that records stay small. 0 for no limit.
      on_damage: "raise" or "skip".
      take_uncovered: episodes that no split of the source covers go to train; they are
        left out otherwise.
    """

    size: tuple[int, int] | None = (224, 224)
    encoding: str = ""
    camera: str | None = None
    action: str | None = None
    state: str | None = None
    val_share: float = 0.1
    max_episodes: int = 0
    episodes_per_shard: int = 64
    max_steps: int = 256
    on_damage: str = "raise"
    take_uncovered: bool = False

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
      skipped: one line per episode or shard that was left out for damage.
      uncovered: numbers of episodes left out because no split covers them.
    """

    episodes: int
    skipped: list[str]
    uncovered: Sequence[int] = ()


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
    source_path = Path(user_path(source_path))
    opening = [] if settings.on_damage == "skip" else None
    source = open_source(
        source_path,
        camera=settings.camera,
        action=settings.action,
        state=settings.state,
        skipped=opening,
    )
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
    output, name = local_path(output), source.domain
    split = split_episodes(
        source, settings.val_share, settings.max_episodes, settings.take_uncovered
    )
    for note in [*getattr(source, "notes", ()), *split.notes]:
        print(f"note: {note}", flush=True)
    splits = split.numbers
    shards = folder.make_shards(output, splits, settings.episodes_per_shard, name)
    with claimed(output):
        wanted = {
            "schema_version": SCHEMA_VERSION,
            **about,
            "settings": dataclasses.asdict(settings),
        }
        wanted = json.loads(json.dumps(wanted))  # tuples become lists, as when read
        claim_settings(output / SETTINGS_FILE, wanted, _with_defaults)
        folder.remove_partial(output)
        done = _Progress(output / "progress.json", opening)
        print(
            f"{source.name}: {sum(map(len, splits.values()))} episodes in "
            f"{len(shards)} shards, {len(done.shards)} of them there already, to "
            f"{output}",
            flush=True,
        )
        schema = _convert_shards(source, shards, settings, done)
        about = {**wanted, "skipped": done.skipped}
        if split.uncovered:
            about["uncovered"] = list(split.uncovered)
        counts = [done.shards[shard.path.name][0] for shard in shards]
        _check_counts(source.name, shards, counts, done)
        assert schema is not None  # a shard has an episode
        described = json.dumps(about, sort_keys=True)
        folder.write_info(shards, counts, schema, described, name)
    return Converted(sum(counts), done.skipped, split.uncovered)


def _with_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """Stored settings, with the defaults of those that came later."""
    defaults = json.loads(json.dumps(dataclasses.asdict(Settings())))
    return {**stored, "settings": {**defaults, **stored.get("settings", {})}}


def _check_counts(name, shards, counts, done: "_Progress") -> None:
    """Raises a DataError if every episode of a split was skipped."""
    for split in dict.fromkeys(shard.split for shard in shards):
        mine = [(s, n) for s, n in zip(shards, counts) if s.split == split]
        if not sum(count for _, count in mine):
            lines = [x for shard, _ in mine for x in done.shards[shard.path.name][1]]
            raise DataError(
                f"{name}: no episode of '{split}' could be converted, "
                f"{len(lines)} were skipped, the first: {lines[0] if lines else 'none'}"
            )


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
                stored = parse_json(read_text(path))
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
        where = f"{name}: frame {t}"
        if isinstance(frame, bytes):
            kind, *size = frame_size(frame, where)
            fits = settings.size in (None, tuple(size)) and is_rgb(frame)
            if fits and kind == (settings.encoding or kind) and kind in ("png", "jpeg"):
                files.append(frame)
                continue
            frame = decode_frame(frame, where)
        elif frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise DataError(
                f"{where} is {frame.dtype}{list(frame.shape)}, expected uint8[h, w, 3]"
            )
        if settings.size is not None and frame.shape[:2] != tuple(settings.size):
            # Area average, as in the renderers' supersampling.
            height, width = settings.size
            picture = Image.fromarray(frame).resize(
                (width, height), Image.Resampling.BOX
            )
            frame = np.asarray(picture)
        files.append(encode_frame(frame, settings.encoding or "png"))
    return files
