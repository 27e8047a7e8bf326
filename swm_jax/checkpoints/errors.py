"""Whether a checkpoint holds what a model expects, and the errors that say no."""

from collections.abc import Mapping, Sequence
from typing import Any

from swm_jax.models.backbones.weights import named_leaves


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and why."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that cannot be read; an older one may do."""


def check_tree(expected: Any, found: Any, where: str) -> None:
    """Compares key and shape of two trees.

    Args:
      expected: arrays or shape structs of the model.
      found: arrays or metadata with shapes, as stored.
      where: the checkpoint, for the message.

    Raises:
      CheckpointError: names the first keys that are missing, left over or misshapen.
    """
    want, have = (
        {key: tuple(leaf.shape) for key, leaf in named_leaves(tree).items()}
        for tree in (expected, found)
    )
    check_shapes(want, have, where)


def check_shapes(
    want: Mapping[str, tuple[int, ...]], have: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """The same for shapes by key.

    Raises:
      CheckpointError: names the first keys that are missing, left over or misshapen.
    """
    problems = [f"{key} is missing" for key in sorted(want.keys() - have.keys())]
    problems += [f"{key} is left over" for key in sorted(have.keys() - want.keys())]
    problems += [
        f"{key} has shape {have[key]}, expected {want[key]}"
        for key in sorted(want.keys() & have.keys())
        if want[key] != have[key]
    ]
    if problems:
        raise CheckpointError(f"{where} does not hold this model: {listed(problems)}")


def listed(problems: Sequence[str]) -> str:
    """The first three problems in one line, and how many more there are."""
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more
