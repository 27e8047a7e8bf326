"""A run's own checkpoints: saving, keeping, checking, resuming."""
