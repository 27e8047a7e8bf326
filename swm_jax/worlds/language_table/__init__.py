"""Adapter to Language-Table's own env."""
