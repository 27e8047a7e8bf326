"""Semantic World Models in JAX: answer questions about the future, plan on the answers.

Importing this package first matters on small CPU hosts: XLA sizes its thread
pool from `NPROC`, and with a pool of two threads batched MJX steps inside
`lax.fori_loop` wait for each other for ever. A larger pool cures it, so the
variable is set here, before anything below starts jax, unless the user chose.
"""

import os

os.environ.setdefault("NPROC", "8")

__version__ = "0.1.0"


def load(path=None, **options):
    """Model, parameters, tokenizer and preprocessing of a checkpoint of any format.

    See `swm_jax.checkpoints.load_model`, which this calls; jax starts only then.
    """
    from swm_jax.checkpoints import load_model

    return load_model(path, **options)
