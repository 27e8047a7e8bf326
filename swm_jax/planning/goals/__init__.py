"""Goals as arrays: a table of stages, questions as tokens, the value of answers."""
