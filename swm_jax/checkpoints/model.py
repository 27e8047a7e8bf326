"""Loading a model from a checkpoint of any format, and exporting it."""

import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.checkpoints.formats.detect import detect, open_source, split_subtree
from swm_jax.checkpoints.formats.lazy_arrays import Source, to_arrays
from swm_jax.checkpoints.formats.orbax.folder import Opened
from swm_jax.checkpoints.formats.orbax.step_folder import write_model
from swm_jax.cli import warn
from swm_jax.files import AnyPath, local_path
from swm_jax.models import (
    ActionScale,
    ModelConfig,
    SemanticWorldModel,
    Tokenizer,
    VLMWorldModel,
    preprocess_image,
)
from swm_jax.models.action_scale import action_weights

SHIPPED = "board_tiny"


class LoadedModel(NamedTuple):
    """A loaded checkpoint.

    Attributes:
      model: the Flax module; `model.config` is its config.
      params: tree of `img`, `llm`, `action`.
      tokenizer: the tokenizer of training; None if neither checkpoint nor caller has
        one.
      preprocess: uint8 images of any size -> float32[..., size, size, 3].
      metadata: model and, if stored, step, stage, training config, action scales.
    """

    model: SemanticWorldModel
    params: Any
    tokenizer: Tokenizer | None
    preprocess: Callable[[Any], Array]
    metadata: dict[str, Any]

    @property
    def config(self) -> ModelConfig:
        """The model's config, with the layout of training."""
        return self.model.config

    @property
    def world_model(self) -> VLMWorldModel:
        """The world model for planners; `world_model.answer` takes plain text."""
        domains = list(self.metadata.get("actions", {}))
        return self.world_model_for(domains[0] if len(domains) == 1 else None)

    def world_model_for(self, domain: str | None) -> VLMWorldModel:
        """The world model with the action scale of one domain.

        Args:
          domain: as in the training data ("board", ...). None leaves actions unscaled,
            as does any domain if the checkpoint has no action scales.

        Raises:
          CheckpointError: a domain that is not in the checkpoint's training data.
        """
        entries = self.metadata.get("actions", {})
        if domain is None or not entries:
            return VLMWorldModel(self.params, self.config)
        if domain not in entries:
            raise CheckpointError(
                f"the checkpoint was trained on actions of {', '.join(entries)}, "
                f"not of '{domain}'"
            )
        entry, width = entries[domain], self.config.action_size
        scale = None
        if entry["kind"] != "raw" or entry["size"] != width:
            scale = ActionScale.make(entry, entry["size"], width)
        return VLMWorldModel(self.params, self.config, action_scale=scale)


def shipped_checkpoint(name: str = SHIPPED) -> Path:
    """Folder of a checkpoint shipped with the package."""
    return Path(__file__).parents[1] / "assets" / name


def load_model(
    path: str | AnyPath | None = None,
    *,
    variant: str | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
    param_dtype: Any = None,
    sharding: Any = None,
    check_finite: bool = True,
    **overrides: Any,
) -> LoadedModel:
    """Loads a checkpoint of any format directly onto its devices.

    A plain PaliGemma has no action projector: one is initialised from a fixed key and
    listed in `metadata["fresh"]`. LoRA adapters are merged into their weights.

    Args:
      path: a run's workdir, one of its steps, an exported model, a Hugging Face folder
        or an `.npz`; None takes the checkpoint shipped with the package. Orbax folders
        may be in an object store (`gs://bucket/folder`).
      variant: for an npz without model description; None infers it from shapes.
      tokenizer: a SentencePiece model, for a checkpoint without one.
      param_dtype: of the parameters; None keeps the stored ones, except scales of RMS
        norms, which become float32 (they are added to 1).
      sharding: of all parameters, or a function of (key, shape struct); None puts
        them on the first local device. Every host reads only its part.
      check_finite: raise an error for NaN and infinity.
      **overrides: fields of `ModelConfig` that differ from the checkpoint's.

    Raises:
      CheckpointError: missing, half-written, damaged or of another model.
    """
    path = shipped_checkpoint() if path is None else path
    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.load(tokenizer)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    dtype = functools.partial(dtype_of, param_dtype)
    if detect(split_subtree(path)[0]) == "orbax":
        opened = Opened(path, tokenizer, overrides)
        params = opened.read(sharding, dtype, check_finite)
        return loaded_model(
            opened.config, params, opened.tokenizer, opened.metadata, sharding
        )
    source = open_source(
        path,
        variant=variant,
        tokenizer=tokenizer,
        check_finite=check_finite,
        **overrides,
    )
    return load_source(source, dtype, sharding, whole=not split_subtree(path)[1])


def load_source(
    source: Source,
    dtype: Callable[[str, Any], np.dtype],
    sharding: Any,
    whole: bool = True,
) -> LoadedModel:
    """Reads an opened checkpoint directly onto its devices.

    Args:
      source: from `open_source`.
      dtype: (key, stored dtype) -> dtype, see `param_dtype`.
      sharding, whole: as for `loaded_model`.
    """
    for doubt in source.doubts:
        warn(doubt)
    stored = {key: leaf.dtype for key, leaf in source.leaves.items()}
    params = to_arrays(source.leaves, sharding, lambda key: dtype(key, stored[key]))
    return loaded_model(
        source.config, params, source.tokenizer, dict(source.metadata), sharding, whole
    )


def loaded_model(
    config: ModelConfig,
    params: Any,
    tokenizer: Tokenizer | None,
    metadata: dict[str, Any],
    sharding: Any,
    whole: bool = True,
) -> LoadedModel:
    """Assembles a `LoadedModel`, with a new action projector if `params` has none.

    Args:
      config, params, tokenizer, metadata: as in `LoadedModel`.
      sharding: for the new projector.
      whole: False for a sub-tree such as `file.npz:img`, which gets no projector.

    Raises:
      CheckpointError: the tokenizer's vocabulary does not fit the config.
    """
    model = SemanticWorldModel(config)
    if tokenizer is not None:
        try:
            tokenizer.check(config)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
    if whole and "action" not in params:
        params = {**params, "action": _fresh_projector(config, sharding)}
        described = {**metadata["model"], "action": True}
        metadata = {**metadata, "model": described, "fresh": ["action"]}
    preprocess = functools.partial(
        preprocess_image, size=config.image_size, resize=config.resize
    )
    return LoadedModel(model, params, tokenizer, preprocess, metadata)


def dtype_of(wanted: Any, key: str, stored: Any) -> np.dtype:
    """Dtype of a parameter for `param_dtype`, see `load_model`."""
    if wanted is not None:
        return jnp.dtype(wanted)
    return jnp.dtype("float32" if _rms_scale(key) else stored)


def _rms_scale(key: str) -> bool:
    decoder = key.startswith("llm/") and key.endswith("norm/scale")
    return decoder or key == "img/soft_norm/scale"


def _fresh_projector(config: ModelConfig, sharding: Any) -> dict[str, jax.Array]:
    leaves, keys = {}, prng.split(prng.key(0))
    for key, (name, weight) in zip(keys, action_weights(config).items()):
        with prng.fixed():
            leaf = weight.initializer(key, weight.shape)
        struct = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        place: Any = (
            sharding(f"action/{name}", struct) if callable(sharding) else sharding
        )
        leaves[name] = jax.make_array_from_callback(
            leaf.shape, place, lambda index, leaf=leaf: np.asarray(leaf)[index]
        )
    return leaves


def export_model(source: str | AnyPath, destination: str | Path) -> Path:
    """Exports a run for inference: parameters, metadata and tokenizer.

    Args:
      source: a run, one of its steps or an exported model.
      destination: a new folder, or an exported model to replace.

    Returns:
      The destination.

    Raises:
      CheckpointError: the source is no run, or the destination is another folder.
    """
    if detect(split_subtree(source)[0]) != "orbax":
        raise CheckpointError(f"{source} is no run: use python -m swm_jax.convert")
    loaded = load_model(source)
    destination = local_path(destination).absolute()
    if destination.exists() and not (destination / "params").is_dir():
        raise CheckpointError(f"{destination} exists and is not an exported model")
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=destination.parent, prefix=".export-"))
    try:
        write_model(staging, loaded.params, loaded.metadata, loaded.tokenizer)
        kept = [p for p in destination.glob("*") if p.is_file()]
        for file in kept:  # the model card and curves stay
            if not (staging / file.name).exists():
                shutil.copy2(file, staging / file.name)
        if destination.exists():
            shutil.rmtree(destination)
        os.chmod(staging, 0o755)
        os.replace(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return destination
