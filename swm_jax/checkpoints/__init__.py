"""Checkpoints: saving and resuming runs; loading, converting, shipping models."""

from swm_jax.checkpoints.adapters import export_adapter, load_adapter
from swm_jax.checkpoints.errors import CheckpointError, check_tree
from swm_jax.checkpoints.model import (
    LoadedModel,
    export_model,
    load_model,
    shipped_checkpoint,
)
from swm_jax.checkpoints.run.manager import RunCheckpoints
from swm_jax.checkpoints.run.retention import SAVE_TIMEOUT, KeepBest

__all__ = [
    "SAVE_TIMEOUT",
    "CheckpointError",
    "KeepBest",
    "LoadedModel",
    "RunCheckpoints",
    "check_tree",
    "export_adapter",
    "export_model",
    "load_adapter",
    "load_model",
    "shipped_checkpoint",
]
