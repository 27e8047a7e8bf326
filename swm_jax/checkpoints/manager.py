"""Orbax checkpoints of a run: what is saved has a name and a schema.

    <workdir>/checkpoints/<step>/params      the model's tree (and `dense` while
                                             pre-training), an item of its own
                                 opt_state   the optimizer's tree
                                 data        JSON: where the data stream stands
                                 metadata    JSON: format, step, model, config

Steps appear under their name only when complete (Orbax renames them), so a killed
save leaves nothing that could be mistaken for a checkpoint.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

FORMAT = "swm_jax"
FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which and why."""


def checkpoints_folder(workdir: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(workdir).absolute() / "checkpoints"


class RunCheckpoints:
    """Saves and restores the state of one run; saves are asynchronous.

    Args:
      workdir: the run's folder.
      keep: how many of the newest checkpoints stay.
    """

    def __init__(self, workdir: str | Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(
            checkpoints_folder(workdir), options=options
        )

    def latest_step(self) -> int | None:
        """The newest complete step, or None in a new run."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        params: Any,
        opt_state: Any,
        data: dict[str, Any],
        metadata: dict[str, Any],
    ) -> None:
        """Starts saving; returns once the arrays are copied off the device."""
        if step == self.latest_step():
            return
        schema = {"format": FORMAT, "format_version": FORMAT_VERSION, "step": step}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params),
                opt_state=ocp.args.StandardSave(opt_state),
                data=ocp.args.JsonSave(data),
                metadata=ocp.args.JsonSave({**schema, **metadata}),
            ),
        )

    def metadata(self, step: int) -> dict[str, Any]:
        """The JSON that stands beside the arrays of a step."""
        restored = self._manager.restore(
            step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore())
        )
        return restored["metadata"]

    def restore(
        self, step: int, params: Any, opt_state: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Reads a step into the shapes and shardings of the given trees.

        Args:
          step: which one.
          params, opt_state: arrays or shape structs of what is expected.

        Returns:
          params, opt_state and the data position.

        Raises:
          CheckpointError: the step does not hold these trees.
        """
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(params),
                    opt_state=ocp.args.StandardRestore(opt_state),
                    data=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"step {step} of {self._manager.directory} cannot be resumed by "
                f"this config: {reason}; use another --workdir, or the config that "
                "wrote it"
            ) from error
        return restored["params"], restored["opt_state"], restored["data"]

    def wait(self) -> None:
        """Blocks until the last save is complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes the last save and frees the threads."""
        self._manager.wait_until_finished()
        self._manager.close()


def check_tree(expected: Any, found: Any, where: str) -> None:
    """Compares key and shape of two trees.

    Args:
      expected: arrays or shape structs of the model.
      found: arrays or metadata with shapes, as stored.
      where: the checkpoint, for the message.

    Raises:
      CheckpointError: names the first keys that are missing, left over or misshapen.
    """
    flatten = lambda tree: {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    check_shapes(flatten(expected), flatten(found), where)


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
