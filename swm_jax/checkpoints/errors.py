"""Checkpoint errors, and comparison of stored trees with a model's."""

from collections.abc import Mapping, Sequence
from typing import Any

from swm_jax.models.backbones.weights import named_leaves


class CheckpointError(ValueError):
    """Unusable checkpoint; the message has its path and the reason."""


class DamagedCheckpoint(CheckpointError):
    """Unreadable step of a run; resuming falls back to an older one."""


def check_tree(expected: Any, found: Any, where: str) -> None:
    """Checks that two trees have the same keys and shapes.

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
    """`check_tree` for flat mappings from key to shape.

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
    """The first three problems in one line, with the number of further ones."""
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more
