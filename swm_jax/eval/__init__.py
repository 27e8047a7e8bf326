"""Evaluation of semantic world models: `python -m swm_jax.eval`.

`sweep.evaluate(config, folder)` is the same from Python. Accuracy of answers and action
sensitivity (`answers`) and success of planning (`episodes`) are measured separately,
stored in a journal as they finish, and summarised on one page (`report`). This package
imports nothing, so that errors on the command line are reported without delay.
"""
