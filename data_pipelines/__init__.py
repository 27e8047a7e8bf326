"""Episodes, SAQA sampling and grain input for semantic world models."""

import swm_jax  # noqa: F401  (sets NPROC before jax starts)
