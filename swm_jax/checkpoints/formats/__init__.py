"""Stored models: Orbax, npz and Hugging Face folders as lazy arrays."""
