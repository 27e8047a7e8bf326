"""A run's folder: one checkpoint that is replaced whole, and a log of JSON lines.

For stages whose state is a tree of arrays and whose batches are a function of
(seed, step): what is saved is the tree's leaves in order, and the step.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np


def save_state(path: Path, step: int, tree: Any) -> None:
    """Writes step and leaves to a temporary name, then renames."""
    leaves = {f"leaf{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(tree))}
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez(file, step=step, **leaves)
    os.replace(partial, path)


def load_state(path: Path, like: Any) -> tuple[int, Any]:
    """Step and tree of a checkpoint.

    Args:
      path: what `save_state` wrote.
      like: a tree with the structure and shapes that were saved.

    Raises:
      ValueError: the checkpoint holds other shapes.
    """
    leaves, structure = jax.tree.flatten(like)
    with np.load(path) as file:
        found = [file[f"leaf{i}"] for i in range(len(file.files) - 1)]
        step = int(file["step"])
    shapes = [x.shape for x in found], [np.shape(x) for x in leaves]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{path} holds another tree than this run's")
    return step, jax.tree.unflatten(structure, found)


def write_row(folder: Path, row: dict[str, float]) -> None:
    """Appends to `metrics.jsonl` and prints."""
    row = {k: round(float(v), 5) for k, v in row.items()}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row | {"time": round(time.time())}) + "\n")
    print(" ".join(f"{k}={v:g}" for k, v in row.items()), flush=True)
