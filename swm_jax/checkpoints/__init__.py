"""Checkpoints: saving and resuming runs, loading and shipping models."""

from swm_jax.checkpoints.load import (
    LoadedModel,
    export_model,
    load_model,
    shipped_checkpoint,
)
from swm_jax.checkpoints.manager import CheckpointError, RunCheckpoints

__all__ = [
    "CheckpointError",
    "LoadedModel",
    "RunCheckpoints",
    "export_model",
    "load_model",
    "shipped_checkpoint",
]
