"""Batches: streams that depend on seed and step only, and mixtures of them."""
