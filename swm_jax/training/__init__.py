"""Training: the loop, the trainable models, and their settings."""

from swm_jax.training.experiment import Experiment, Model, Training
from swm_jax.training.loop import TrainingError, fit
from swm_jax.training.trainable import Measures, Trainable
from swm_jax.training.world_model.run import train

__all__ = [
    "Experiment",
    "Measures",
    "Model",
    "Trainable",
    "Training",
    "TrainingError",
    "fit",
    "train",
]
