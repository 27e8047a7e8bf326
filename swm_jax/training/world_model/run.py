"""Trains the semantic world model of a config."""

from typing import Any

import ml_collections
from etils import epath

from swm_jax.files import two_paths
from swm_jax.models import Tokenizer
from swm_jax.training.experiment import Experiment
from swm_jax.training.inputs import process_rows
from swm_jax.training.loop import fit
from swm_jax.training.trainable import Trainable
from swm_jax.training.world_model.eyes import TrainableEyes
from swm_jax.training.world_model.inputs import WorldModelInputs, action_metadata
from swm_jax.training.world_model.model import TrainableWorldModel, load_start


def train(
    config: ml_collections.ConfigDict | Experiment,
    workdir: epath.PathLike,
    profile_steps: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Trains an experiment, resuming from the newest checkpoint in `workdir`.

    On several hosts every process calls this, after `distributed.connect`.

    Args:
      config: of an experiment, for example `experiments/board_tiny.py`.
      workdir: folder of logs, metrics and checkpoints; the same for all processes.
      profile_steps: (first, last): trace steps first + 1 to last.

    Returns:
      The last validation scalars.

    Raises:
      TrainingError: the loss is not finite, the workdir has a run of another model, or
        the last state could not be saved.
      CheckpointError: there are checkpoints, and none can be read.
      ValueError: an invalid config.
    """
    experiment = Experiment.parse(config)
    tokenizer = Tokenizer.load(experiment.model.tokenizer)
    tokenizer.check(experiment.model.config())

    def inputs(mesh):
        rows = process_rows(mesh, experiment.data.images)
        return WorldModelInputs(experiment, tokenizer, rows)

    def start(params, shardings):
        return load_start(params, experiment.init_from, shardings)

    return fit(
        experiment,
        trainable_of(experiment),
        inputs,
        workdir,
        metadata=_metadata(experiment, workdir),
        start=start if experiment.init_from else None,
        profile_steps=profile_steps,
    )


def trainable_of(experiment: Experiment) -> Trainable:
    """What the stage of an experiment trains.

    Raises:
      ValueError: stage eyes of a model without object tokens.
    """
    if experiment.stage == "eyes":
        return TrainableEyes.of(experiment)
    return TrainableWorldModel.of(experiment)


def _metadata(experiment: Experiment, workdir: Any) -> dict[str, Any]:
    """Metadata stored in checkpoints: stage, model, base, action scales."""
    metadata = {
        "stage": experiment.stage,
        "model": {
            "variant": experiment.model.variant,
            "overrides": experiment.model.settings,
            "tokenizer": experiment.model.tokenizer,
        },
    }
    if experiment.init_from:
        metadata["base"] = two_paths(experiment.init_from, workdir)
    if actions := action_metadata(experiment):
        metadata["actions"] = actions
    return metadata
