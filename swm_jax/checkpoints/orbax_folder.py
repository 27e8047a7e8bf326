"""Our own folders: `params` (Orbax) beside `metadata` (JSON), and a tokenizer.

A folder is a run's workdir (its newest step is taken), one step of a run, or an
exported model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from swm_jax.checkpoints.describe import overrides_of
from swm_jax.checkpoints.leaves import (
    Leaf,
    Source,
    bounds,
    check_dtype,
    check_finite,
    flatten,
    to_arrays,
    unflatten,
)
from swm_jax.checkpoints.manager import (
    FORMAT,
    FORMAT_VERSION,
    CheckpointError,
    check_tree,
    checkpoints_folder,
)
from swm_jax.models import ModelConfig, SemanticWorldModel, Tokenizer, get_config
from swm_jax.models.tokenizer import TOKENIZER_FILE

CHUNK_BYTES = 64 << 20
LARGE_BYTES = 256 << 20


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
    """What stands beside the parameters of a step.

    Raises:
      CheckpointError: not readable, of another program or another release.
    """
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


class Opened:
    """A folder whose keys and shapes were compared with its model's.

    Attributes:
      step, metadata, config, tokenizer: what was found.
      stored: shape structs of the stored tree.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: Tokenizer | None,
        overrides: Mapping[str, Any],
    ):
        self.step = find_step(path)
        self.metadata = read_metadata(self.step)
        model = self.metadata["model"]
        self.config: ModelConfig = get_config(
            model["variant"], **{**model["overrides"], **overrides}
        )
        init = SemanticWorldModel(self.config).init_params
        expected = dict(jax.eval_shape(init, jax.random.key(0)))
        found = self._guard(
            lambda: dict(ocp.StandardCheckpointHandler().metadata(self.step / "params"))
        )
        found.pop("dense", None)
        if not model.get("action", True):  # a plain PaliGemma
            expected.pop("action")
        check_tree(expected, found, str(self.step))
        self.stored = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found
        )
        for key, leaf in flatten(self.stored).items():
            check_dtype(f"{self.step}: {key}", np.dtype(leaf.dtype))
        if tokenizer is None:
            own = self.step / TOKENIZER_FILE
            tokenizer = Tokenizer.load(own if own.is_file() else model["tokenizer"])
        self.tokenizer = tokenizer

    def read(self, sharding: Any, dtype: Any) -> dict[str, Any]:
        """The parameters, each device's part only.

        Args:
          sharding: of all leaves, or (key, shape struct) -> sharding.
          dtype: (key, stored dtype) -> dtype.
        """
        structs = {}
        for key, leaf in flatten(self.stored).items():
            struct = jax.ShapeDtypeStruct(leaf.shape, dtype(key, leaf.dtype))
            place = sharding(key, struct) if callable(sharding) else sharding
            structs[key] = struct.update(sharding=place)
        # Orbax holds what it reads twice for a moment: the large ones in turn, largest
        # first, so that the second copy never comes on top of the whole model.
        size = lambda key: structs[key].size * structs[key].dtype.itemsize
        large = sorted((k for k in structs if size(k) > LARGE_BYTES), key=size)
        groups = [[key] for key in reversed(large)]
        groups.append([key for key in structs if key not in large])
        arrays: dict[str, Any] = {}
        for group in filter(None, groups):
            target = unflatten({key: structs[key] for key in group})
            arrays |= flatten(self._guard(lambda target=target: self._restore(target)))
        return unflatten({key: arrays[key] for key in structs})

    def _restore(self, target: Any) -> Any:
        return ocp.PyTreeCheckpointer().restore(
            self.step / "params",
            args=ocp.args.PyTreeRestore(
                item=target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )

    def _guard(self, read):
        try:
            return read()
        except CheckpointError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{self.step}/params is damaged: {reason}") from error


def open_orbax(
    path: str | Path,
    tokenizer: Tokenizer | None,
    overrides: Mapping[str, Any],
    check: bool,
    read: bool = True,
) -> Source:
    """Opens one of our folders as a source of leaves; `read` brings them into memory.

    Raises:
      CheckpointError: missing, half-written, damaged or of another model.
    """
    opened = Opened(path, tokenizer, overrides)
    structs = flatten(opened.stored)
    arrays: dict[str, Any] = {}
    if read:
        place = jax.sharding.SingleDeviceSharding(_host())
        arrays = flatten(opened.read(place, lambda key, dtype: dtype))

    def leaf(key, struct):
        def blocks(index):
            block = np.asarray(arrays[key])[bounds(index, struct.shape)]
            if check:
                check_finite(f"{opened.step}: {key}", block)
            yield tuple(slice(0, n) for n in block.shape), block

        return Leaf(struct.shape, np.dtype(struct.dtype), blocks, (key,))

    config = opened.config
    model = {"variant": config.variant, "overrides": overrides_of(config)}
    metadata = {k: v for k, v in opened.metadata.items() if k[:6] != "format"}
    return Source(
        "orbax",
        opened.step,
        config,
        {key: leaf(key, struct) for key, struct in structs.items()},
        opened.tokenizer,
        {**metadata, "model": model},
    )


def write_orbax(
    folder: Path, source: Source, dtype: np.dtype | None, progress=lambda count: None
) -> None:
    """Writes a source as an exported model.

    Chunks of bounded size, neither packed nor compressed: writing needs little memory
    beside the parameters, and a host that restores reads its own chunks only.
    """
    if source.tokenizer is None:
        raise CheckpointError(
            f"{source.path} has no tokenizer: name a SentencePiece model "
            "with --tokenizer"
        )
    place = jax.sharding.SingleDeviceSharding(_host())
    params = to_arrays(source.leaves, place, dtype, progress)
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    handler = ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=1 + largest // 10**9,
        use_ocdbt=False,
        use_compression=False,
    )
    chunks = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), params)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(
            folder / "params", args=ocp.args.PyTreeSave(params, save_args=chunks)
        )
    model = {
        **source.metadata["model"],
        "action": "action/kernel" in source.leaves,
        "tokenizer": source.tokenizer.name,
    }
    if source.tokenizer.shipped:
        model["tokenizer"] = source.tokenizer.name
    else:
        model["tokenizer"] = TOKENIZER_FILE
        (folder / TOKENIZER_FILE).write_bytes(source.tokenizer.model)
    metadata = {
        **source.metadata,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": model,
    }
    (folder / "metadata").mkdir()
    (folder / "metadata" / "metadata").write_text(
        json.dumps(metadata, indent=2, sort_keys=True) + "\n"
    )


def _host() -> jax.Device:
    """A CPU device where there is one: a conversion needs no accelerator."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
