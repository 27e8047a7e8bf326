"""Backbones: pairs of an image tower and a decoder.

To add one, write a file with its two modules and an entry in `registry.BACKBONES`.
"""
