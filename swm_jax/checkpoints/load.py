"""From a folder to a model that answers: reading and shipping checkpoints.

A folder is a run's workdir (its newest step is taken), one step of a run, or a
shipped model: `params` (Orbax) beside `metadata`, nothing else.
"""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from swm_jax.checkpoints.manager import (
    FORMAT,
    FORMAT_VERSION,
    CheckpointError,
    check_tree,
    checkpoints_folder,
)
from swm_jax.models import ModelConfig, SemanticWorldModel, Tokenizer, get_config
from swm_jax.models.lora import LoraRule, init_adapters, lora_rules, merge_adapters

SHIPPED = "board_tiny"


class LoadedModel(NamedTuple):
    """What `load_model` returns.

    Attributes:
      config: the model's config; its layout is the one it was trained in.
      params: float32 tree of `img`, `llm`, `action`.
      tokenizer: the one it was trained with.
      metadata: format, step, stage, model, training config.
    """

    config: ModelConfig
    params: Any
    tokenizer: Tokenizer
    metadata: dict[str, Any]


def shipped_checkpoint(name: str = SHIPPED) -> Path:
    """The folder of a checkpoint that comes with the package."""
    return Path(__file__).parents[1] / "assets" / name


def find_step(path: str | Path) -> Path:
    """The folder that holds `params` and `metadata` for a path a user gives.

    Raises:
      CheckpointError: nothing there, nothing complete there.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise CheckpointError(f"checkpoint folder {path} does not exist")
    steps = checkpoints_folder(path) if checkpoints_folder(path).is_dir() else path
    numbered = [p for p in steps.glob("*") if p.name.isdigit()]
    if numbered:
        path = max(numbered, key=lambda p: int(p.name))
    missing = [item for item in ("params", "metadata") if not (path / item).is_dir()]
    if missing:
        raise CheckpointError(
            f"{path} is not a complete checkpoint: no {' and no '.join(missing)} in "
            "it; give a run's --workdir, one of its checkpoints/<step> or an exported "
            "model"
        )
    return path


def read_metadata(step: Path) -> dict[str, Any]:
    """The JSON beside the parameters of a step; CheckpointError if it is not ours."""
    try:
        metadata = json.loads((step / "metadata" / "metadata").read_text())
    except (OSError, json.JSONDecodeError) as error:
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


def stored_rules(metadata: dict[str, Any]) -> tuple[LoraRule, ...]:
    """The rules of the adapters that stand beside a checkpoint's base, if any."""
    finetune = metadata.get("finetune", {})
    return () if finetune.get("merged") else lora_rules(finetune.get("lora", ()))


def with_adapter_shapes(shapes: Any, metadata: dict[str, Any]) -> dict[str, Any]:
    """The model's shapes, plus those of the adapters that the checkpoint holds."""
    rules = stored_rules(metadata)
    if not rules:
        return dict(shapes)
    make = lambda: init_adapters(jax.random.key(0), shapes, rules)
    return {**shapes, "lora": jax.eval_shape(make)}


def merge_stored(params: dict, metadata: dict[str, Any]) -> tuple[dict, dict[str, Any]]:
    """(parameters with the stored adapters merged, metadata that says so)."""
    rules = stored_rules(metadata)
    if not rules:
        return params, metadata
    base = {name: tree for name, tree in params.items() if name != "lora"}
    merge = jax.jit(lambda base, lora: merge_adapters(base, lora, rules))
    finetune = {**metadata["finetune"], "merged": True}
    return merge(base, params["lora"]), {**metadata, "finetune": finetune}


def stored_shapes(step: Path) -> dict[str, Any]:
    """Shapes of the parameters of a step, without the heads of pre-training."""
    with _naming_damage(step):
        found = dict(ocp.StandardCheckpointHandler().metadata(step / "params"))
    found.pop("dense", None)
    return found


def restore_params(step: Path, shapes: Any) -> dict[str, Any]:
    """The parameters of a step that have a place in a tree of shapes."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        shapes,
    )
    with _naming_damage(step):
        return ocp.PyTreeCheckpointer().restore(
            step / "params",
            args=ocp.args.PyTreeRestore(
                item=target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )


@contextlib.contextmanager
def _naming_damage(step: Path):
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{step}/params is damaged: {reason}") from error


def load_model(path: str | Path | None = None) -> LoadedModel:
    """Reads config, parameters and tokenizer of a checkpoint.

    Args:
      path: a run's workdir, one step of it or an exported model; None takes the
        checkpoint shipped with the package. Adapters are merged into their weights.

    Raises:
      CheckpointError: missing, half-written, damaged or of another model.
    """
    step = find_step(shipped_checkpoint() if path is None else path)
    metadata = read_metadata(step)
    if "adapter" in metadata:
        raise CheckpointError(
            f"{step} is an adapter without its base; use load_adapter"
        )
    model = metadata["model"]
    config = get_config(model["variant"], **model["overrides"])
    shapes = jax.eval_shape(SemanticWorldModel(config).init_params, jax.random.key(0))
    expected = with_adapter_shapes(shapes, metadata)
    check_tree(expected, stored_shapes(step), str(step))
    params, metadata = merge_stored(restore_params(step, expected), metadata)
    tokenizer = Tokenizer.load(model["tokenizer"])
    return LoadedModel(config, params, tokenizer, metadata)


def write_model(folder: Path, params: Any, metadata: dict[str, Any]) -> None:
    """Writes `params` and `metadata` into a folder that has neither."""
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(folder / "params", args=ocp.args.StandardSave(params))
    (folder / "metadata").mkdir()
    (folder / "metadata" / "metadata").write_text(
        json.dumps(metadata, indent=2, sort_keys=True) + "\n"
    )


def export_model(source: str | Path, destination: str | Path) -> Path:
    """Writes what inference needs of a checkpoint (no optimizer) to a new folder.

    Args:
      source: anything `load_model` reads.
      destination: must not exist yet, or be an exported model to replace.

    Returns:
      The destination.
    """
    loaded = load_model(source)
    destination = Path(destination).absolute()
    if destination.exists() and not (destination / "params").is_dir():
        raise CheckpointError(f"{destination} exists and is not an exported model")
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=destination.parent, prefix=".export-"))
    try:
        write_model(staging, loaded.params, loaded.metadata)
        kept = [p for p in destination.glob("*") if p.is_file()]
        for file in kept:  # the model card and curves stay
            shutil.copy2(file, staging / file.name)
        if destination.exists():
            shutil.rmtree(destination)
        os.chmod(staging, 0o755)
        os.replace(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return destination
