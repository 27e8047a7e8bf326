"""Vision-language models that answer questions about future states."""

from swm_jax.models.action_scale import ActionScale
from swm_jax.models.answers import Written
from swm_jax.models.ask import Answer, Answers, answer_batch
from swm_jax.models.config import VARIANTS, ModelConfig, get_config
from swm_jax.models.layout import PositionRule
from swm_jax.models.preprocess import preprocess_image
from swm_jax.models.swm import SemanticWorldModel
from swm_jax.models.tokenizer import Tokenizer
from swm_jax.models.types import (
    MAX_ARGS,
    PAD_TOKEN,
    Context,
    DenseTargets,
    FutureTargets,
    MentionTargets,
    ObjectTargets,
    Observation,
    Outputs,
    PlaceTargets,
    QuestionBatch,
    TrainBatch,
)
from swm_jax.models.world_model import VLMWorldModel

__all__ = [
    "MAX_ARGS",
    "PAD_TOKEN",
    "VARIANTS",
    "ActionScale",
    "Answer",
    "Answers",
    "Context",
    "DenseTargets",
    "FutureTargets",
    "MentionTargets",
    "ModelConfig",
    "ObjectTargets",
    "Observation",
    "Outputs",
    "PlaceTargets",
    "PositionRule",
    "QuestionBatch",
    "SemanticWorldModel",
    "Tokenizer",
    "TrainBatch",
    "VLMWorldModel",
    "Written",
    "answer_batch",
    "get_config",
    "preprocess_image",
]
