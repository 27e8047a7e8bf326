"""What a run is compared with before it goes on: the checkpoint's metadata.

Another model cannot go on at all. Everything else may change (a learning rate, more
steps, another version of JAX), and is told before the first step.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from swm_jax.records import differences

# Metadata, and fields of the config, that must be equal: parameters or optimizer states
# of another form cannot be continued.
SAME = ("stage", "model", "finetune", "config.optimizer.name")
# Parts of the config that training does not read.
UNREAD = ("name", "planner", "evaluation")
MOST = 20  # lines


class TrainingError(RuntimeError):
    """Unrecoverable training failure; the message has step and reason."""


def check_same_run(
    workdir: Any, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Raises a TrainingError if a checkpoint's metadata differ in `SAME`."""
    for key in SAME:
        old, new = _at(before, key), _at(now, key)
        if old != new and not (old is None and key.startswith("config.")):
            raise TrainingError(
                f"{workdir} holds a run of another config: its {key} is {old}, this "
                f"config's {new}; use another --workdir"
            )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines on what differs from the run that a checkpoint was saved by.

    For example "optimizer.learning_rate was 0.001, is 0.002".

    Args:
      before: metadata of the checkpoint, with `config` and `conditions`.
      now: of this run.
    """
    found = list(_changes(before, now))
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return found[:MOST] + more


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for part in ("config", "conditions"):
        if not before.get(part):
            continue  # written before it was stored
        # As JSON gives it back: a tuple is a list.
        current = json.loads(json.dumps(now[part]))
        for name, old, new in differences(before[part], current):
            if name.partition(".")[0] not in UNREAD:
                yield f"{name} was {old!r}, is {new!r}"


def _at(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values
