"""Image towers and decoders: a backbone is one of each.

A backbone costs a file with its modules and an entry in `registry.BACKBONES`.
"""
