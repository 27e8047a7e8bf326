"""Checkpoints of a run: saving, retention, integrity checks, resuming."""
