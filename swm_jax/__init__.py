"""Semantic World Models in JAX: question answering about the future, and planning.

Import this package before jax on small CPU hosts: XLA sizes its thread pool from
`NPROC`, and with two threads batched MJX steps inside `lax.fori_loop` deadlock. A
larger pool avoids this, so NPROC is set here unless it is in the environment.
"""

import os

os.environ.setdefault("NPROC", "8")

__version__ = "0.1.0"


def load(path=None, **options):
    """Loads a checkpoint of any format; see `swm_jax.checkpoints.load_model`.

    jax is imported on the first call.
    """
    from swm_jax.checkpoints import load_model

    return load_model(path, **options)
