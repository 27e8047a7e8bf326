"""Checkpoints: saving and resuming runs; loading, converting, shipping models."""

from swm_jax.checkpoints.adapters import export_adapter, load_adapter
from swm_jax.checkpoints.expected import CheckpointError, check_tree
from swm_jax.checkpoints.keep import SAVE_TIMEOUT, KeepBest
from swm_jax.checkpoints.load import (
    LoadedModel,
    export_model,
    load_model,
    shipped_checkpoint,
)
from swm_jax.checkpoints.manager import RunCheckpoints

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
