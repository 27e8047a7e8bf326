"""Orbax folders."""
