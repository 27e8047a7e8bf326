"""Files of one step of a run, or of an exported model.

    params       parameters (Orbax): the model's, pre-training heads under `dense`,
                 LoRA adapters under `lora`
    metadata     JSON: format, step, model, config, fine-tuning rules
    tokenizer    a SentencePiece model, unless the package ships it

`metadata["finetune"]` has the adapters' rules, with which readers merge them.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from swm_jax import prng
from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.checkpoints.run.manager import (
    FORMAT,
    FORMAT_VERSION,
    absolute,
    checkpoints_folder,
)
from swm_jax.choices import first_line
from swm_jax.cli import warn
from swm_jax.files import parse_json, read_text
from swm_jax.models import Tokenizer
from swm_jax.models.backbones.lora import (
    LoraRule,
    init_adapters,
    lora_rules,
    merge_adapters,
)
from swm_jax.models.tokenizer import TOKENIZER_FILE


def find_step(path: epath.PathLike) -> epath.Path:
    """The folder with `params` and `metadata` for a user's path.

    For a run it is the newest complete step.

    Raises:
      CheckpointError: missing or incomplete.
    """
    place = absolute(path)
    if not place.exists():
        raise CheckpointError(f"checkpoint folder {place} does not exist")
    steps = checkpoints_folder(place) if checkpoints_folder(place).is_dir() else place
    numbered = (
        [p for p in steps.iterdir() if p.name.isdigit()] if steps.is_dir() else []
    )
    numbered.sort(key=lambda p: int(p.name), reverse=True)
    found = next((step for step in numbered if not _missing(step)), None)
    if found is not None and found != numbered[0]:
        warn(f"{_incomplete(numbered[0])}; {found} is taken")
    step = found or next(iter(numbered), place)
    if _missing(step):
        raise CheckpointError(
            f"{_incomplete(step)}; give a run's --workdir, one of its "
            "checkpoints/<step> or an exported model"
        )
    return step


def _missing(step: epath.Path) -> list[str]:
    return [item for item in ("params", "metadata") if not (step / item).is_dir()]


def _incomplete(step: epath.Path) -> str:
    missing = " and no ".join(_missing(step))
    return f"{step} is not a complete checkpoint: no {missing} in it"


def read_metadata(step: epath.Path) -> dict[str, Any]:
    """Reads the metadata of a step.

    Raises:
      CheckpointError: unreadable, or another format or format version.
    """
    try:
        metadata = parse_json(read_text(step / "metadata" / "metadata"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{step}/metadata cannot be read: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{step} was not written by {FORMAT}: its metadata says format "
            f"{metadata.get('format')!r}"
        )
    if metadata["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{step} has format version {metadata['format_version']}, this release "
            f"reads {FORMAT_VERSION}"
        )
    return metadata


def stored_tokenizer(step: epath.Path, metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer in a step's folder, or the one named in its metadata."""
    own = step / TOKENIZER_FILE
    return Tokenizer.load(own if own.is_file() else metadata["model"]["tokenizer"])


def stored_shapes(step: epath.Path) -> dict[str, Any]:
    """Shapes of a step's parameters, without pre-training heads."""
    with naming_damage(step):
        # Orbax types this as a tree of any kind; here it is a mapping.
        tree: Any = ocp.StandardCheckpointHandler().metadata(step / "params")
        found = dict(tree)
    found.pop("dense", None)
    return found


def restore_params(step: epath.Path, target: Any) -> dict[str, Any]:
    """Restores the part of a step's parameters given by a tree of shape structs.

    Args:
      step: from `find_step`.
      target: a part of the stored tree; leaves without a sharding go to the first
        local device.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def place(leaf):
        sharding = getattr(leaf, "sharding", None) or device
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    target = jax.tree.map(place, target)
    with naming_damage(step):
        return ocp.PyTreeCheckpointer().restore(
            step / "params",
            args=ocp.args.PyTreeRestore(
                item=target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )


@contextlib.contextmanager
def naming_damage(step: epath.Path):
    """Context manager that converts all errors to a `CheckpointError` with the step."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds
        reason = first_line(error)
        raise CheckpointError(f"{step}/params is damaged: {reason}") from error


def stored_rules(metadata: dict[str, Any]) -> tuple[LoraRule, ...]:
    """LoRA rules of a checkpoint's unmerged adapters; empty without any."""
    finetune = metadata.get("finetune", {})
    return () if finetune.get("merged") else lora_rules(finetune.get("lora", ()))


def with_adapter_shapes(shapes: Any, metadata: dict[str, Any]) -> dict[str, Any]:
    """The model's shapes, plus those of the checkpoint's adapters."""
    rules = stored_rules(metadata)
    if not rules:
        return dict(shapes)
    # Shapes only: nothing is computed under eval_shape.
    make = lambda: init_adapters(prng.key(0), shapes, rules)
    return {**shapes, "lora": jax.eval_shape(make)}


def merge_stored(params: dict, metadata: dict[str, Any]) -> tuple[dict, dict[str, Any]]:
    """Merges stored adapters; returns parameters and updated metadata."""
    rules = stored_rules(metadata)
    if not rules:
        return params, metadata
    base = {name: tree for name, tree in params.items() if name != "lora"}
    merge = jax.jit(
        lambda base, lora: merge_adapters(base, lora, rules),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, base),
    )
    return merge(base, params["lora"]), merged_metadata(metadata)


def merged_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a checkpoint after merging its adapters."""
    if not stored_rules(metadata):
        return metadata
    return {**metadata, "finetune": {**metadata["finetune"], "merged": True}}


def write_model(
    folder: Path,
    params: Any,
    metadata: dict[str, Any],
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes `params`, `metadata` and tokenizer into an empty folder."""
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(folder / "params", args=ocp.args.StandardSave(params))
    write_description(folder, metadata, tokenizer)


def write_description(
    folder: Path, metadata: dict[str, Any], tokenizer: Tokenizer | None = None
) -> None:
    """Writes `metadata`, and the tokenizer unless the package ships it."""
    (folder / "metadata").mkdir()
    (folder / "metadata" / "metadata").write_text(
        json.dumps(metadata, indent=2, sort_keys=True) + "\n"
    )
    if tokenizer and not tokenizer.shipped:
        (folder / TOKENIZER_FILE).write_bytes(tokenizer.model)
