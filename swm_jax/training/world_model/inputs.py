"""Batches of an experiment, by `data.source`.

    rendered    scenes without actions (pre-training), rendered on the device
    episodes    stored episodes, with their frames or labels
    simulated   cached simulated poses; images and questions are made on the device

The SWM stage may use rendered scenes in every n-th step (`rendered_every`), so that
object grounding is not forgotten while the model learns the effects of actions.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Int

from data_pipelines.batches import pretraining
from swm_jax import worlds
from swm_jax.models import Tokenizer, TrainBatch
from swm_jax.training.experiment import Experiment

_HELD_OUT = 1_000_003  # added to the seed: another stream of scenes


def action_metadata(experiment: Experiment) -> dict[str, Any]:
    """The `actions` metadata of a checkpoint, by domain; empty for rendered scenes.

    Raises:
      ValueError: unreadable data.
    """
    data = experiment.data
    if data.source == "rendered":
        return {}
    if data.source == "simulated":
        world = worlds.load(data.simulated.generation["world"])
        return {world.scene.domain: {"kind": "raw", "size": world.env.action_size}}
    from data_pipelines.batches import stream as batches

    return batches.stored_action_entries(data.dir, data.actions)


class WorldModelInputs:
    """Batches of an experiment (`Inputs`), as numpy or single-device arrays.

    Args:
      experiment: seed, data, number of held-out batches.
      tokenizer: of the model.
      rows: this process's rows of a batch (`process_rows`); None for all.

    Raises:
      ValueError: unreadable data, or inconsistent sizes.
    """

    def __init__(
        self,
        experiment: Experiment,
        tokenizer: Tokenizer,
        rows: Int[np.ndarray, " n"] | None = None,
    ):
        data = experiment.data
        self.images = data.images
        self._experiment, self._rows = experiment, rows
        self._parts = (experiment.model.config(), tokenizer)
        self._rendered = data.source == "rendered"
        self._every = 0 if self._rendered else data.rendered_every
        self._sample: Any = None
        self._episodes: Any = None
        if self._rendered or self._every:
            if data.rendered_images != data.images and rows is not None:
                raise ValueError(
                    f"data.rendered.images is {data.rendered_images}, on several hosts "
                    f"it must be data.images, {data.images}"
                )
            self._sample = pretraining.make_sampler(data, *self._parts, rows=rows)
        if not self._rendered:
            self._episodes = self._stored("train")

    def stream(self, start_step: int) -> Iterator[TrainBatch]:
        """See `Inputs`."""
        if self._rendered:
            return (
                self._sample(self._experiment.seed, step)
                for step in itertools.count(start_step)
            )
        stream = self._episodes.stream(start_step)
        if not self._every:
            return stream
        return (
            self._sample(self._experiment.seed, step) if self._renders(step) else batch
            for step, batch in zip(itertools.count(start_step), stream)
        )

    def validation(self) -> list[TrainBatch]:
        """`validation_batches` held-out batches."""
        count = self._experiment.validation_batches
        if self._rendered:
            seed = self._experiment.seed + _HELD_OUT
            return [self._sample(seed, step) for step in range(count)]
        held_out = self._stored("val")
        return [held_out(step) for step in range(count)]

    def examples(self, step: int) -> dict[str, Any]:
        """JSON description of the batch of `step` (number of steps before it).

        Returns:
          Seed and step, which determine the batch, and for stored data the episode and
          frame of every row.
        """
        found = {
            "source": "rendered",
            "seed": self._experiment.seed,
            "stream_step": step,
        }
        if self._episodes is not None and not self._renders(step):
            source = self._experiment.data.source
            found |= {"source": source, "examples": self._episodes.examples(step)}
        return found

    def _renders(self, step: int) -> bool:
        return bool(self._every) and step % self._every == self._every - 1

    def _stored(self, split: str) -> Any:
        """Batches of a split by step, with `stream` and `examples`."""
        experiment, (model_config, tokenizer) = self._experiment, self._parts
        data = experiment.data
        rest = {"seed": experiment.seed, "split": split, "rows": self._rows}
        if data.source == "simulated":
            from data_pipelines.generate import pose_cache as poses
            from data_pipelines.saqa.branches import BranchBatches
            from data_pipelines.saqa.device_batches import DeviceBatches

            generation = ml_collections.ConfigDict(dict(data.simulated.generation))
            episodes = poses.simulated_episodes(generation, str(data.dir), split)
            several = data.simulated.chunks
            make = BranchBatches.make if several else DeviceBatches.make
            return make(episodes, data, tokenizer, model_config, **rest)
        from data_pipelines.batches import stream as batches

        return batches.StepBatches.make(data.dir, data, tokenizer, model_config, **rest)
