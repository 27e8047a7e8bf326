"""Format detection by content, and opening of a checkpoint of any format."""

import contextlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swm_jax.checkpoints.errors import CheckpointError, check_shapes
from swm_jax.checkpoints.formats.huggingface import peft
from swm_jax.checkpoints.formats.huggingface.config import special_ids
from swm_jax.checkpoints.formats.huggingface.folder import open_folder
from swm_jax.checkpoints.formats.infer_config import (
    architecture_of,
    closest_variant,
    known_fields,
    overrides_of,
)
from swm_jax.checkpoints.formats.lazy_arrays import Source, model_shapes
from swm_jax.checkpoints.formats.npz import read_npz
from swm_jax.checkpoints.formats.orbax.folder import open_orbax
from swm_jax.checkpoints.run.manager import checkpoints_folder
from swm_jax.choices import first_line
from swm_jax.files import AnyPath, pointer_hint, user_path
from swm_jax.models import Tokenizer, get_config

FORMATS = ("hugging_face", "npz", "orbax")
_PICKLE, _NUMPY = b"\x80", b"\x93NUMPY"


def split_subtree(path: str | AnyPath) -> tuple[AnyPath, str]:
    """Splits `file.npz:img` into the file and "img"; other paths into path and ""."""
    place = user_path(path)
    if ":" in place.name and not place.exists():
        name, _, subtree = place.name.rpartition(":")
        return place.with_name(name), subtree
    return place, ""


def detect(path: AnyPath) -> str:
    """The format of a file or folder, one of `FORMATS`, or "peft" for an adapter.

    Raises:
      CheckpointError: missing, no checkpoint, or a format that is not read from an
        object store.
    """
    kind = _detect(path)
    if "://" in str(path) and kind != "orbax":
        raise CheckpointError(
            f"{path} is of the format {kind}, and only folders of the format orbax are "
            "read from an object store: copy it to a disk, or convert it first "
            "(python -m swm_jax.convert)"
        )
    return kind


def _detect(path: AnyPath) -> str:
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if path.is_dir():
        inside = {p.name for p in path.iterdir()}
        if peft.CONFIG in inside and not any(map(_is_model, inside)):
            return "peft"
        if "config.json" in inside or any(n.endswith(".safetensors") for n in inside):
            if "config.json" not in inside:
                raise CheckpointError(f"{path} has safetensors and no config.json")
            if not any(".safetensors" in name for name in inside):
                pickles = [n for n in inside if n.endswith((".bin", ".pt", ".pth"))]
                raise CheckpointError(
                    f"{path} has config.json and no .safetensors"
                    + (f"; {pickles[0]} is a pickle, never read" if pickles else "")
                )
            return "hugging_face"
        if {"params", "metadata"} & inside or checkpoints_folder(path).is_dir():
            return "orbax"
        if any(name.isdigit() for name in inside):
            return "orbax"
        words = "it has"
        if any("tokenizer" in name for name in inside):
            words = "it has a tokenizer, but"
        raise CheckpointError(
            f"{path} is no checkpoint: {words} neither config.json and safetensors "
            "(Hugging Face) nor params and metadata (Orbax)"
        )
    with path.open("rb") as file:
        start = file.read(16)
        file.seek(0)
        zipped = zipfile.is_zipfile(file)
    if zipped:
        return "npz"
    if start[:1] == _PICKLE or start.startswith(_NUMPY):
        raise CheckpointError(
            f"{path} is {'a pickle' if start[:1] == _PICKLE else 'a single array'}, "
            "expected an .npz of arrays; pickles are never read"
        )
    if start.startswith(b"PK"):
        raise CheckpointError(f"{path} is damaged or cut off: it is half an npz")
    if hint := pointer_hint(path):
        raise CheckpointError(f"{path} {hint}")
    if start[8:9] == b"{":
        raise CheckpointError(
            f"{path} is one safetensors file: give the folder with its config.json"
        )
    raise CheckpointError(f"{path} is of no known format, expected {FORMATS}")


def _is_model(name: str) -> bool:
    """Whether a file of that name holds the tensors of a whole model."""
    return name.endswith(".safetensors") and not name.startswith("adapter_model")


def open_source(
    path: str | AnyPath,
    *,
    base: str | AnyPath | None = None,
    variant: str | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
    check_finite: bool = True,
    read: bool = True,
    **overrides: Any,
) -> Source:
    """Opens a checkpoint of any format as lazy arrays; every tensor must be used.

    Args:
      path: a Hugging Face folder, an `.npz` of big_vision (`file.npz:img` for a
        sub-tree), a run, step or exported model of ours, or PEFT's adapter.
      base: the model of an adapter, of any format.
      variant: for an npz without model description; None infers it from shapes.
      tokenizer: a SentencePiece model, for a checkpoint without one.
      check_finite: raise an error for NaN and infinity when values are read.
      read: with False only shapes are inspected; adapters are not merged.
      **overrides: fields of `ModelConfig`.

    Raises:
      CheckpointError: damaged, incomplete or inconsistent.
    """
    place, subtree = split_subtree(path)
    kind = detect(place)
    if kind == "peft":
        adapter = peft.PeftAdapter(Path(place), check_finite)
        return adapter.merged_into(
            open_source(
                _base_of(adapter, base),
                variant=variant,
                tokenizer=tokenizer,
                check_finite=check_finite,
                read=read,
                **overrides,
            )
        )
    if base is not None:
        raise CheckpointError(f"{place} is no adapter of PEFT: leave the base out")
    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.load(tokenizer)
    if subtree and kind != "npz":
        raise CheckpointError(f"{place}:{subtree}: only an npz has sub-trees")
    if variant and kind != "npz":
        raise CheckpointError(f"{place} describes its own model: leave the variant out")
    if kind == "hugging_face":
        return open_folder(Path(place), tokenizer, overrides, check_finite)
    if kind == "orbax":
        return open_orbax(place, tokenizer, overrides, check_finite, read)
    return _open_npz(Path(place), subtree, variant, tokenizer, overrides, check_finite)


def _base_of(adapter: peft.PeftAdapter, given: str | AnyPath | None) -> AnyPath:
    """The base of an adapter: as given, or where PEFT found it."""
    if given is not None:
        return user_path(given)
    stored = user_path(adapter.base) if adapter.base else None
    for place in (stored, stored and adapter.folder / stored):
        if place is not None and place.is_dir():
            return place
    raise CheckpointError(
        f"{adapter.folder} is an adapter that PEFT trained on "
        f"{adapter.base or 'an unnamed model'}, and holds no model itself: download "
        "that and name its folder, load_adapter(ADAPTER, base=FOLDER) or "
        "python -m swm_jax.convert ADAPTER MERGED --base=FOLDER"
    )


@contextlib.contextmanager
def _described(path: Path):
    """Makes errors in a file's own description of its model a CheckpointError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its description of the model cannot be used: {first_line(error)}"
        ) from error


def _open_npz(
    path: Path,
    subtree: str,
    variant: str | None,
    tokenizer: Tokenizer | None,
    overrides: Mapping[str, Any],
    check: bool,
) -> Source:
    contents = read_npz(path, check)
    leaves, metadata = contents.leaves, dict(contents.metadata or {})
    if tokenizer is None and contents.tokenizer:
        tokenizer = Tokenizer(contents.tokenizer, f"{path} tokenizer")
    shapes = {key: leaf.shape for key, leaf in leaves.items()}
    if "model" in metadata and not variant:
        with _described(path):
            model = metadata["model"]
            values = {**model["overrides"], **overrides}
            config = get_config(model["variant"], **values)
    else:
        values = dict(overrides)
        if variant is None:
            try:
                found = architecture_of(shapes)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}; name its variant") from error
            vocab = found.pop("vocab_size")
            variant = closest_variant(found)
            values = {**known_fields(found), "vocab_size": vocab, **values}
        if "action/kernel" in shapes:
            values.setdefault("action_size", shapes["action/kernel"][0])
        if variant.startswith(("paligemma", "gemma3")):
            values.setdefault("layout", "full")
        if tokenizer:
            values = {**special_ids(tokenizer), **values}
        config = get_config(variant, **values)
    expected = model_shapes(config)
    if not any(key.startswith("action/") for key in leaves):
        expected = {k: s for k, s in expected.items() if not k.startswith("action/")}
    if subtree:
        inside = lambda key: key == subtree or key.startswith(subtree + "/")
        expected = {k: s for k, s in expected.items() if inside(k)}
        leaves = {key: leaf for key, leaf in leaves.items() if inside(key)}
        if not leaves:
            raise CheckpointError(f"{path} has nothing under {subtree}")
    check_shapes(expected, {k: leaf.shape for k, leaf in leaves.items()}, str(path))
    notes = []
    if contents.ignored:
        first = ", ".join(contents.ignored[:3])
        notes.append(f"{len(contents.ignored)} arrays beside params/ ignored: {first}")
    model = {"variant": config.variant, "overrides": overrides_of(config)}
    return Source(
        "npz",
        path,
        config,
        {key: leaves[key] for key in expected},
        tokenizer,
        {**metadata, "model": model},
        tuple(notes),
    )
