"""Batches for the loop: rendered scenes (pre-training) or stored episodes (SWM).

Both are pure functions of (seed, step). Query types are the grammar's question
types, followed by the kinds that only pre-training asks. The SWM stage may keep
every n-th step for rendered scenes (`rendered_every`), so that names stay bound to
places while the model learns what actions do.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from data_pipelines import pretraining
from swm_jax.models import ModelConfig, Tokenizer, TrainBatch

QUERY_TYPES = (*pretraining.QUERY_TYPES, "labelled")


def data_position(config: ml_collections.ConfigDict, step: int) -> dict[str, Any]:
    """Where the stream stands before `step`: all that a resume needs."""
    return {"source": config.data.source, "seed": config.seed, "step": step}


def action_metadata(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a checkpoint says of its actions, by domain; empty for rendered scenes.

    Raises:
      ValueError: data that cannot be read.
    """
    if config.data.source != "episodes":
        return {}
    from data_pipelines import batches

    kind = config.data.get("actions", "raw")
    return batches.stored_action_entries(config.data.dir, kind)


def make_stream(
    config: ml_collections.ConfigDict,
    model_config: ModelConfig,
    tokenizer: Tokenizer,
    start_step: int,
) -> Iterator[TrainBatch]:
    """Endless training batches from `start_step` on.

    Raises:
      ValueError: an unknown data source.
    """
    if config.data.source == "rendered":
        sample = pretraining.make_sampler(config.data, model_config, tokenizer)
        return (sample(config.seed, step) for step in _count(start_step))
    if config.data.source == "episodes":
        from data_pipelines import batches

        stream = batches.make_train_iterator(
            config.data.dir,
            config.data,
            tokenizer,
            model_config,
            seed=config.seed,
            start_step=start_step,
        )
        every = config.data.rendered_every
        if not every:
            return stream
        sample = pretraining.make_sampler(config.data.rendered, model_config, tokenizer)
        return (
            sample(config.seed, step) if step % every == every - 1 else batch
            for step, batch in zip(_count(start_step), stream)
        )
    raise ValueError(
        f"unknown data source '{config.data.source}'; known: rendered, episodes"
    )


def validation_batches(
    config: ml_collections.ConfigDict, model_config: ModelConfig, tokenizer: Tokenizer
) -> list[TrainBatch]:
    """`config.validation_batches` batches that training never sees."""
    if config.data.source == "rendered":
        sample = pretraining.make_sampler(config.data, model_config, tokenizer)
        seed = config.seed + 1_000_003  # another stream of scenes
        return [sample(seed, step) for step in range(config.validation_batches)]
    from data_pipelines import batches

    stream = batches.make_train_iterator(
        config.data.dir,
        config.data,
        tokenizer,
        model_config,
        seed=config.seed,
        start_step=0,
        split="val",
    )
    return [next(stream) for _ in range(config.validation_batches)]


def _count(start: int) -> Iterator[int]:
    step = start
    while True:
        yield step
        step += 1
