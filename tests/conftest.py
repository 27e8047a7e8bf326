"""Test set-up: CPU, and no deadline for property tests (the first call compiles)."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis

import swm_jax  # noqa: F401  (sets NPROC before jax starts)

hypothesis.settings.register_profile("swm", deadline=None, max_examples=25)
hypothesis.settings.load_profile("swm")
