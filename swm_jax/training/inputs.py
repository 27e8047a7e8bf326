"""Batches for the loop, by `config.data.source`.

    rendered    scenes without any action (pre-training), made on the device
    episodes    stored episodes, with their frames or labels
    simulated   poses that were simulated once; all else is made on the device

All are pure functions of (seed, step). Query types are the worlds' question types
and the kinds that only pre-training asks (`query_types`). The SWM stage may keep
every n-th step for rendered scenes (`rendered_every`), so that names stay bound to
places while the model learns what actions do.

On many hosts each process builds the rows of the batch that its devices hold, which
the mesh decides, and no others: nothing is lost, and only what two hosts share (a
tensor axis across them) is built twice.
"""

from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from data_pipelines.batches import pretraining
from swm_jax import worlds
from swm_jax.models import ModelConfig, Tokenizer, TrainBatch
from swm_jax.training.sharding import batch_sharding, batch_shards, shard_batch

SOURCES = ("rendered", "episodes", "simulated")
_HELD_OUT = 1_000_003  # added to the seed: another stream of scenes


def data_position(config: ml_collections.ConfigDict, step: int) -> dict[str, Any]:
    """Where the stream stands before `step`: all that a resume needs."""
    return {"source": config.data.source, "seed": config.seed, "step": step}


def action_metadata(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a checkpoint says of its actions, by domain; empty for rendered scenes.

    Raises:
      ValueError: data that cannot be read.
    """
    if config.data.source == "rendered":
        return {}
    if config.data.source == "simulated":
        world = worlds.load(config.data.simulate.world)
        return {world.scene.domain: {"kind": "raw", "size": world.env.action_size}}
    from data_pipelines.batches import stream as batches

    kind = config.data.get("actions", "raw")
    return batches.stored_action_entries(config.data.dir, kind)


class Inputs:
    """The batches of a run, as numpy or single-device arrays.

    Args:
      config: an experiment config.
      model_config: image size, T_max, longest horizon.
      tokenizer: of the model.
      rows: of the batch that this process needs (`process_rows`); all by default.

    Raises:
      ValueError: an unknown data source.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        model_config: ModelConfig,
        tokenizer: Tokenizer,
        rows: Int[np.ndarray, " n"] | None = None,
    ):
        if config.data.source not in SOURCES:
            raise ValueError(
                f"unknown data source '{config.data.source}'; known: "
                f"{', '.join(SOURCES)}"
            )
        self._config, self._rows = config, rows
        self._parts = (model_config, tokenizer)
        self._rendered = config.data.source == "rendered"
        self._every = 0 if self._rendered else config.data.rendered_every
        self._sample, self._episodes = None, None
        if self._rendered or self._every:
            data = config.data if self._rendered else config.data.rendered
            if data.images != config.data.images and rows is not None:
                raise ValueError(
                    f"data.rendered.images is {data.images}, on several hosts it must "
                    f"be data.images, {config.data.images}"
                )
            self._sample = pretraining.make_sampler(data, *self._parts, rows=rows)
        if not self._rendered:
            self._episodes = self._stored("train")

    def stream(self, start_step: int) -> Iterator[TrainBatch]:
        """Endless training batches, the first of them that of `start_step`."""
        if self._rendered:
            return (
                self._sample(self._config.seed, step) for step in _count(start_step)
            )
        stream = self._episodes.stream(start_step)
        if not self._every:
            return stream
        return (
            self._sample(self._config.seed, step) if self._renders(step) else batch
            for step, batch in zip(_count(start_step), stream)
        )

    def validation(self) -> list[TrainBatch]:
        """`config.validation_batches` batches that training never sees."""
        count = self._config.validation_batches
        if self._rendered:
            seed = self._config.seed + _HELD_OUT
            return [self._sample(seed, step) for step in range(count)]
        held_out = self._stored("val")
        return [held_out(step) for step in range(count)]

    def examples(self, step: int) -> dict[str, Any]:
        """What makes the batch of `step` (steps done before it), as JSON.

        Returns:
          The seed and step, which are enough to build it again, and the episode and
          frame of every row where there is one.
        """
        found = {"source": "rendered", "seed": self._config.seed, "stream_step": step}
        if self._episodes is not None and not self._renders(step):
            source = self._config.data.source
            found |= {"source": source, "examples": self._episodes.examples(step)}
        return found

    def _renders(self, step: int) -> bool:
        return bool(self._every) and step % self._every == self._every - 1

    def _stored(self, split: str) -> Any:
        """Batches by step of a split, with `stream` and `examples`."""
        config, (model_config, tokenizer) = self._config, self._parts
        if config.data.source == "simulated":
            from data_pipelines.generate import pose_cache as poses
            from data_pipelines.saqa import device_batches as device_saqa

            episodes = poses.simulated_episodes(
                config.data.simulate, config.data.dir, split
            )
            return device_saqa.DeviceBatches.make(
                episodes,
                config.data,
                tokenizer,
                model_config,
                seed=config.seed,
                split=split,
                rows=self._rows,
            )
        from data_pipelines.batches import stream as batches

        return batches.StepBatches.make(
            config.data.dir,
            config.data,
            tokenizer,
            model_config,
            seed=config.seed,
            split=split,
            rows=self._rows,
        )


def process_rows(mesh: Mesh, images: int) -> Int[np.ndarray, " n"] | None:
    """The rows of a batch that this process's devices hold; None if there is one.

    Args:
      mesh: over all processes' devices.
      images: rows of the global batch.

    Raises:
      ValueError: images that do not divide by the mesh's batch axes.
    """
    if jax.process_count() == 1:
        return None
    if images % batch_shards(mesh):
        raise ValueError(
            f"a batch of {images} images does not divide by the mesh's data and fsdp "
            f"axes of {batch_shards(mesh)} devices"
        )
    parts = batch_sharding(mesh).addressable_devices_indices_map((images,)).values()
    return np.unique(np.concatenate([np.arange(images)[part] for part in parts]))


def place_batch(
    batch: TrainBatch, mesh: Mesh, rows: Int[np.ndarray, " n"] | None
) -> TrainBatch:
    """A process's rows as its part of one global batch on the mesh.

    Args:
      batch: host or single-device arrays with leading axis `rows`.
      mesh: over all processes' devices.
      rows: from `process_rows`, in ascending order.
    """
    if rows is None:
        return shard_batch(batch, mesh)
    sharding = batch_sharding(mesh)
    size = {len(leaf) for leaf in jax.tree.leaves(batch)}
    if size != {len(rows)}:
        raise ValueError(f"rows are {len(rows)}, the batch has {sorted(size)}")
    images = len(rows) * batch_shards(mesh) // _shards_here(mesh)

    def place(leaf):
        def part(index):
            wanted = np.arange(images)[index[0]]
            first = int(np.searchsorted(rows, wanted[0]))
            return leaf[first : first + len(wanted)]

        shape = (images, *leaf.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(place, batch)


def _shards_here(mesh: Mesh) -> int:
    """How many different parts of a batch this process's devices hold."""
    shards = batch_shards(mesh)
    parts = batch_sharding(mesh).addressable_devices_indices_map((shards,)).values()
    return len({np.arange(shards)[part][0] for part in parts})


def _count(start: int) -> Iterator[int]:
    step = start
    while True:
        yield step
        step += 1
