"""Labelling of a data set: a copy whose episodes have labels at random starts.

Training draws from these labels (`label.sampler`).
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.label.labellers import Labeller, asks_about_change
from data_pipelines.schema import store as folder
from data_pipelines.schema.arrays import stack_episodes
from data_pipelines.schema.episode import (
    SCHEMA_VERSION,
    DataError,
    Episode,
    Labels,
    frame_size,
)
from data_pipelines.schema.features import Schema
from data_pipelines.schema.frames import FrameStore
from data_pipelines.schema.output_folder import claim_settings, claimed
from data_pipelines.schema.read import open_dataset, read_episodes
from swm_jax.choices import first_line
from swm_jax.files import lines_of, local_path, read_text, user_path

_SETTINGS_FILE = "labelling.json"


@dataclasses.dataclass(frozen=True)
class Asking:
    """Questions and numbers of queries per episode.

    Attributes:
      questions: texts.
      starts: start frames per episode.
      horizons: evaluated at each start, up to the episode's end.
      per_frame: questions per start and horizon, drawn without replacement.
      min_confidence: labels below are dropped.
      seed: draws are a function of it and the episode's number.
    """

    questions: tuple[str, ...]
    starts: int = 8
    horizons: tuple[int, ...] = (0, 4, 8, 16)
    per_frame: int = 8
    min_confidence: float = 0.8
    seed: int = 0

    def check(self, labeller: Labeller) -> None:
        """Raises a DataError for invalid settings or questions about changes."""
        if not self.questions:
            raise DataError("no questions: give a file with one per line")
        if not 0 <= self.min_confidence <= 1:
            raise DataError(
                f"min_confidence is {self.min_confidence}, expected a number in 0..1"
            )
        if min(self.starts, self.per_frame) < 1 or min(self.horizons, default=-1) < 0:
            raise DataError(
                f"starts {self.starts}, per_frame {self.per_frame} and horizons "
                f"{self.horizons}: expected at least one of each"
            )
        change = [text for text in self.questions if asks_about_change(text)]
        if change and not labeller.sees_change:
            raise DataError(
                f"{change[0]!r} asks what changed, but labeller '{labeller.name}' is "
                "shown the later frame alone: ask about states"
            )


def label_episodes(
    episodes: Sequence[Episode], labeller: Labeller, asking: Asking
) -> tuple[list[Episode], int]:
    """Episodes with new labels in place of earlier ones, and the number dropped."""
    asking.check(labeller)
    rows = [
        row for i, episode in enumerate(episodes) for row in _draw(i, episode, asking)
    ]
    files = [file for episode in episodes for file in episode.image]
    store = FrameStore(files.__getitem__, len(files), frame_size(files[0])[1:])
    arrays = stack_episodes(episodes, store)
    episode, t, horizon, asked = (np.array(column) for column in zip(*rows))
    questions = [asking.questions[i] for i in asked]
    answers, sure = labeller(arrays, episode, t, horizon, questions)
    kept = sure >= asking.min_confidence
    result = []
    for i, one in enumerate(episodes):
        mine = np.flatnonzero(kept & (episode == i))
        labels = Labels(
            t=t[mine].astype(np.int32),
            horizon=horizon[mine].astype(np.int32),
            question=[questions[j] for j in mine],
            answer=[answers[j] for j in mine],
            confidence=sure[mine].astype(np.float32),
        )
        result.append(dataclasses.replace(one, labels=labels))
    return result, int((~kept).sum())


def _draw(row: int, episode: Episode, asking: Asking):
    """Yields (row, t, horizon, index of the question) of one episode."""
    key = [asking.seed, episode.episode]
    rng = np.random.Generator(np.random.Philox(key=key))
    frames = np.arange(len(episode) + 1)
    starts = rng.choice(frames, min(asking.starts, len(frames)), replace=False)
    count = min(asking.per_frame, len(asking.questions))
    for t in np.sort(starts):
        for h in asking.horizons:
            if t + h <= len(episode):
                for q in rng.choice(len(asking.questions), count, replace=False):
                    yield row, int(t), int(h), int(q)


def label_folder(
    source: str | Path, output: str | Path, labeller: Labeller, asking: Asking
) -> tuple[int, int]:
    """Writes a labelled copy of a data set; resumes an interrupted run.

    Returns:
      The numbers of labels stored by this run and dropped for low confidence.

    Raises:
      DataError: a folder that cannot be read or written, or invalid settings.
    """
    asking.check(labeller)
    source, output = Path(user_path(source)), local_path(output)
    info = open_dataset(source).info
    stored = dropped = 0
    with claimed(output):
        wanted = {
            "schema_version": SCHEMA_VERSION,
            "source": str(source.resolve()),
            "labeller": labeller.name,
            "asking": dataclasses.asdict(asking),
        }
        wanted = json.loads(json.dumps(wanted))
        claim_settings(output / _SETTINGS_FILE, wanted)
        folder.remove_partial(output)
        shards, counts, schema = [], [], None
        for split in info.splits:
            episodes = read_episodes(source, split)
            lengths = info.splits[split].shard_lengths
            ends = np.cumsum(lengths)
            for path, length, end in zip(info.splits[split].filepaths, lengths, ends):
                part = episodes[end - length : end]
                numbers = [episode.episode for episode in part]
                shard = folder.Shard(output / Path(path).name, split, numbers)
                shards.append(shard)
                counts.append(length)
                schema = schema or Schema.of(episodes[0])
                if shard.path.exists():
                    folder.check_shard(shard.path, length)
                    continue
                labelled, few = (
                    label_episodes(part, labeller, asking) if part else ([], 0)
                )
                folder.write_shard(shard.path, labelled, schema)
                stored += sum(len(episode.labels) for episode in labelled)
                dropped += few
                print(
                    f"{shard.path.name}: {stored} labels, {dropped} dropped", flush=True
                )
        if schema is None:
            raise DataError(f"{source} has no episodes")
        about = json.dumps(wanted, sort_keys=True)
        folder.write_info(shards, counts, schema, about, info.name)
    return stored, dropped


def read_questions(path: str | Path) -> tuple[str, ...]:
    """Questions of a text file, one per line without empty lines and # comments.

    Raises:
      DataError: a file that cannot be read.
    """
    try:
        lines = lines_of(read_text(user_path(path)))
    except OSError as error:
        raise DataError(f"questions {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"questions {path}: {first_line(error)}") from error
    return tuple(dict.fromkeys(x for x in lines if not x.startswith("#")))
