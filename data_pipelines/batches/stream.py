"""Streams of training batches from stored episodes.

    stream = make_train_iterator("data/board", Data(), tokenizer, model_config,
                                 seed=0, start_step=1000)
    batch = next(stream)               # numpy TrainBatch of step 1000

The stream is a pure function of (seed, step): grain maps step numbers to batches with
random access, so resuming means starting at a step, with any number of threads and
hosts. Each host builds its rows of the same global batch. Threads share the episodes;
every wording of every question is tokenised once.

Axes: B images, Q questions, R queries, L answer tokens.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from data_pipelines.batches.config import Data
from data_pipelines.batches.mixture import Source, choose, counts, join, parse_sources
from data_pipelines.batches.normalise import action_entries
from data_pipelines.batches.source_batches import Member, make_member
from data_pipelines.schema.arrays import EpisodeArrays, stack_episodes
from data_pipelines.schema.episode import DataError
from data_pipelines.schema.read import first_episode, load_episodes
from swm_jax.arrays import Indices
from swm_jax.models import ActionScale, ModelConfig, Tokenizer, TrainBatch

_ENDLESS = 2**40  # steps
_SPLIT_SEED = {"train": 0, "val": 1}  # 2 * seed + this: separate streams per split


def make_train_iterator(
    data_dir: Any,
    config: Data,
    tokenizer: Tokenizer,
    model_config: ModelConfig,
    *,
    seed: int,
    start_step: int = 0,
    split: str = "train",
    rows: Indices | None = None,
) -> grain.DatasetIterator:
    """Endless numpy `TrainBatch`es, the first of them that of `start_step`.

    Args:
      data_dir: a folder in our schema, or sources with weights (`mixture`).
      config: sizes of a batch, questions, storage of frames.
      tokenizer: of the model.
      model_config: its sizes.
      seed: of the stream.
      start_step: where to begin, or to resume.
      split: "train" or "val".
      rows: those of the B images that this host needs; all by default.

    Returns:
      A grain iterator; `get_state`/`set_state` are Orbax-checkpointable.

    Raises:
      DataError: as `load_episodes`, or inconsistent sizes.
    """
    batches = StepBatches.make(
        data_dir, config, tokenizer, model_config, seed=seed, split=split, rows=rows
    )
    return batches.stream(start_step)


@dataclasses.dataclass(frozen=True)
class StepBatches:
    """Training batches by step number: `batches(step)` is a `TrainBatch`.

    Attributes:
      members: one per source.
      weights: of the sources, unnormalised.
      config: sizes of a batch, threads.
      seed: of the stream, different for every split.
      rows: this host's part of a batch, None for all of it.
    """

    members: tuple[Member, ...]
    weights: tuple[float, ...]
    config: Data
    seed: int
    rows: Int[np.ndarray, " n"] | None

    @classmethod
    def make(
        cls,
        data_dir: Any,
        config: Data,
        tokenizer: Tokenizer,
        model_config: ModelConfig,
        *,
        seed: int,
        split: str = "train",
        rows: Indices | None = None,
    ) -> "StepBatches":
        """Reads the episodes and measures the sampling weights.

        Raises:
          DataError: as `load_episodes`, or inconsistent sizes.
        """
        sources = parse_sources(data_dir)
        loaded = load_sources(sources, config, split, model_config.image_size)
        scales = action_scales(sources, loaded, config, model_config, split)
        members = [
            make_member(
                episodes,
                config,
                tokenizer,
                model_config,
                scales.get(episodes.domain),
                split,
            )
            for episodes in loaded
        ]
        return cls(
            tuple(members),
            tuple(source.weight for source in sources),
            config,
            2 * seed + _SPLIT_SEED[split],
            None if rows is None else np.asarray(rows),
        )

    def __call__(self, step: int) -> TrainBatch:
        """This host's rows of a step's batch."""
        step, images = int(step), self.config.images
        if len(self.members) == 1:
            return self.members[0].batch(self.seed, step, images, self.rows)
        given, order = counts(self.weights, self.seed, step, images)
        wanted = order if self.rows is None else order[self.rows]
        before, parts, rows = 0, [], []
        for member, count in zip(self.members, given):
            # Source rows before..before + count of the global batch are this member's.
            here = np.flatnonzero((wanted >= before) & (wanted < before + count))
            if len(here):
                mine = wanted[here] - before
                parts.append(member.batch(self.seed, step, count, mine))
                rows.append(here)
            before += count
        # `rows` are positions in the batch, one source after the other: argsort
        # inverts that permutation.
        return join(parts, np.argsort(np.concatenate(rows)))

    def examples(self, step: int) -> list[dict[str, int]]:
        """Start of each row of a step's global batch.

        Returns:
          For each row e.g. {"source": 0, "episode": 17, "t": 3}, with the index of the
          source and the numbers of episode and frame within it.
        """
        given, order = [self.config.images], np.arange(self.config.images)
        if len(self.members) > 1:
            given, order = counts(self.weights, self.seed, int(step), len(order))
        starts = [
            {"source": i, **start}
            for i, (member, count) in enumerate(zip(self.members, given))
            if count
            for start in member.starts(self.seed, int(step), int(count))
        ]
        return [starts[row] for row in order]

    def stream(self, start_step: int) -> grain.DatasetIterator:
        """Iterator over the batches from `start_step` on, prefetched by threads."""
        options = grain.ReadOptions(
            num_threads=self.config.threads,
            prefetch_buffer_size=self.config.prefetch,
        )
        steps = grain.MapDataset.range(_ENDLESS).map(self)
        stream = iter(steps.to_iter_dataset(options))
        stream.set_state({"next_index": start_step})
        return stream


def load_sources(
    sources: Sequence[Source],
    config: Data,
    split: str,
    image_size: int,
) -> list[EpisodeArrays]:
    """Episodes of every source; each folder is read once.

    Frames of several folders are resized to the model's size here, since they share a
    batch; those of a single folder are resized by the model.
    """
    skipped = [] if config.on_damage == "skip" else None
    many = len({source.dir for source in sources}) > 1
    folders = {}
    for source in sources:
        if source.dir not in folders:
            folders[source.dir] = load_episodes(
                source.dir,
                split,
                frames=config.frames,
                size=(image_size, image_size) if many else None,
                skipped=skipped,
            )
    if skipped:
        print(
            f"skipped {len(skipped)} damaged {split} episodes, the first: {skipped[0]}",
            file=sys.stderr,
            flush=True,
        )
    return [choose(folders[source.dir], source, split) for source in sources]


def action_scales(
    sources: Sequence[Source],
    loaded: Sequence[EpisodeArrays],
    config: Data,
    model_config: ModelConfig,
    split: str,
) -> dict[str, ActionScale]:
    """Action scale by domain; "val" too uses statistics of the training episodes."""
    kind = config.actions
    if split == "train" or kind == "raw":
        entries = action_entries(loaded, kind)
    else:
        entries = stored_action_entries(sources, kind)
    width = model_config.action_size
    try:
        return {
            domain: ActionScale.make(entry, entry["size"], width)
            for domain, entry in entries.items()
        }
    except ValueError as error:
        raise DataError(str(error)) from error


def stored_action_entries(data_dir: Any, kind: str) -> dict[str, dict[str, Any]]:
    """Entries on actions for a checkpoint's metadata, read from the stored data.

    "raw" reads one episode per folder, "quantile" all actions of the train split.
    """
    sources = parse_sources(data_dir)
    folders = {}
    for folder in {source.dir: None for source in sources}:
        if kind == "raw":  # no statistics: any episode tells domain and width
            folders[folder] = stack_episodes([first_episode(folder)], None)
        else:
            folders[folder] = load_episodes(folder, "train", frames="disk", skipped=[])
    if kind == "raw":
        return action_entries(list(folders.values()), kind)
    return action_entries(
        [choose(folders[source.dir], source, "train") for source in sources], kind
    )
