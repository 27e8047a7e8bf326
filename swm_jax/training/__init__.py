"""Training: losses, optimizer, step, loop."""

from swm_jax.training.loop import TrainingError, train

__all__ = ["TrainingError", "train"]
