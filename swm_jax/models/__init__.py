"""Vision-language models that answer questions about the future."""

from swm_jax.models.positions import PositionRule
from swm_jax.models.types import (
    PAD_TOKEN,
    DenseTargets,
    Observation,
    QuestionBatch,
    TrainBatch,
)

__all__ = [
    "PAD_TOKEN",
    "DenseTargets",
    "Observation",
    "PositionRule",
    "QuestionBatch",
    "TrainBatch",
]
