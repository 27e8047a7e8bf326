"""Checkpoint formats: Orbax, npz and Hugging Face folders as lazy arrays."""
