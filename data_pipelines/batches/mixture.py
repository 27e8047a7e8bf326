"""Mixtures of data sets: batches with images of several sources, by weight.

`config.data.dir` names one folder, or lists sources:

    config.data.dir = (
        {"dir": "data/board", "policies": ("oracle",), "weight": 3.0},
        {"dir": "data/board", "policies": ("noisy", "random"), "weight": 1.0},
        {"dir": "data/cube", "weight": 4.0},
    )

A weight is the expected share of a source in a batch's images. The count at a step is
drawn by systematic sampling (evenly spaced points with one random offset), so it
differs from its expectation by less than one; positions in the batch are random.
Sources with stored scenes get exact answers; the others use their stored labels.
Splits are part of the stored data sets, so the splits of a mixture are disjoint.

Axes: B images, Q questions, R queries, T question tokens, L answer tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from data_pipelines.schema.arrays import EpisodeArrays
from data_pipelines.schema.episode import DataError
from swm_jax.models import PAD_TOKEN, PlaceTargets, TrainBatch

_FIELDS = ("dir", "weight", "policies")


@dataclasses.dataclass(frozen=True)
class Source:
    """One part of a mixture.

    Attributes:
      dir: folder in our schema.
      weight: share of the images, over the sum of all weights.
      policies: names of policies whose episodes are used; None for all.
    """

    dir: str
    weight: float = 1.0
    policies: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Folder and policies, for messages."""
        some = f" ({', '.join(self.policies)})" if self.policies else ""
        return f"{self.dir}{some}"


def parse_sources(value: Any) -> list[Source]:
    """Sources of `config.data.dir`: a folder, or a sequence of folders and dicts.

    Raises:
      DataError: an unknown field, a negative weight, or no weight above 0.
    """
    if isinstance(value, str | Path):
        return [Source(str(value))]
    sources = []
    for item in value:
        if isinstance(item, str | Path):
            item = {"dir": str(item)}
        if isinstance(item, Source):
            sources.append(item)
            continue
        if not isinstance(item, Mapping) and hasattr(item, "to_dict"):
            item = item.to_dict()
        unknown = [field for field in item if field not in _FIELDS]
        if unknown or "dir" not in item:
            raise DataError(
                f"source {dict(item)} of config.data.dir has "
                f"{f'unknown field {unknown[0]!r}' if unknown else 'no dir'}, expected "
                f"{', '.join(_FIELDS)}"
            )
        policies = item.get("policies")
        sources.append(
            Source(
                str(item["dir"]),
                float(item.get("weight", 1.0)),
                tuple(policies) if policies else None,
            )
        )
    weights = [source.weight for source in sources]
    if not sources or min(weights) < 0 or sum(weights) <= 0:
        raise DataError(
            f"config.data.dir has sources of weights {weights}, expected at least one "
            "above 0 and none below"
        )
    return [source for source in sources if source.weight > 0]


def choose(episodes: EpisodeArrays, source: Source, split: str) -> EpisodeArrays:
    """Episodes of a loaded folder by the policies of a source.

    Raises:
      DataError: the folder has no episode of these policies.
    """
    if source.policies is None:
        return episodes
    wanted = [i for i, p in enumerate(episodes.policies) if p in source.policies]
    rows = np.flatnonzero(np.isin(episodes.policy, wanted))
    if not len(rows):
        raise DataError(
            f"{source.dir} {split} has no episode of {', '.join(source.policies)}; it "
            f"has {', '.join(episodes.policies)}"
        )
    return episodes.select(rows)


def counts(
    weights: Sequence[float], seed: int, step: int, images: int
) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " B"]]:
    """Number of images per source at a step, and their order in the batch.

    Returns:
      Numbers that sum to `images`, at most one from their expectation, and a
      permutation: image b of the batch is row `order[b]` of the sources' rows, one
      source after the other.
    """
    # Sources draw from counter 0 of the same (seed, step); 1 is a separate stream.
    rng = np.random.Generator(np.random.Philox(key=[seed, step], counter=[1, 0, 0, 0]))
    share = np.cumsum(weights) / np.sum(weights)
    # Systematic sampling: one point in each of `images` equal parts of 0..1.
    points = (np.arange(images) + rng.random()) / images
    source = np.minimum(np.searchsorted(share, points, "right"), len(share) - 1)
    return np.bincount(source, minlength=len(share)), rng.permutation(images)


def join(
    parts: Sequence[TrainBatch], order: Int[np.ndarray, " n"] | None
) -> TrainBatch:
    """Concatenates batches, padded to common token widths, and takes rows `order`.

    Where only some parts have place targets, the others get masked ones.
    """
    if len(parts) == 1:
        batch = parts[0]
    else:
        if any(part.places is not None for part in parts):
            parts = [_with_places(part) for part in parts]
        parts = _padded(parts)
        batch = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    if order is None:
        return batch
    return jax.tree.map(lambda x: x[order], batch)


def _with_places(batch: TrainBatch) -> TrainBatch:
    if batch.places is not None:
        return batch
    lead = batch.query_horizon.shape
    none = PlaceTargets(
        mask=np.zeros((*lead, 3), bool), place=np.zeros((*lead, 3, 2), np.float32)
    )
    return batch.replace(places=none)


def _padded(parts: Sequence[TrainBatch]) -> list[TrainBatch]:
    """Parts with question and answer tokens padded to the widest part's length."""
    names = ("question_tokens", "question_mask", "answer_tokens", "answer_mask")
    width = {n: max(getattr(p, n).shape[-1] for p in parts) for n in names}
    result = []
    for part in parts:
        wide = {}
        for name in names:
            value = getattr(part, name)
            pad = [(0, 0)] * (value.ndim - 1) + [(0, width[name] - value.shape[-1])]
            fill = False if value.dtype == bool else PAD_TOKEN
            wide[name] = np.pad(value, pad, constant_values=fill)
        result.append(part.replace(**wide))
    return result
