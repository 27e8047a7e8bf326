"""Part of swm_jax."""
