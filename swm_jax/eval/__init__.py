"""How good a semantic world model is: `python -m swm_jax.eval`.

`run.evaluate(config, folder)` does the same from Python. Answers (`queries`, `qa`),
action sensitivity and planning are measured apart, kept in a journal as they come
and shown on one page (`report`). Nothing is imported here, so that a mistake on the
command line is answered at once.
"""
