"""Hugging Face folders: config.json, safetensors and a SentencePiece model.

PaliGemma 1 and 2 (`model_type` paligemma), Gemma 3 (gemma3) and the published semantic
world models (`paligemma_wm`, PaliGemma with an action projector; ours on Gemma 3 have
`gemma3_wm`).
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.checkpoints.formats.huggingface.config import (
    OWN,
    FolderFacts,
    check_tokenizer,
    embedding_rows,
    placeholder_ids,
    read_config,
    unknown_fields,
    write_config,
)
from swm_jax.checkpoints.formats.huggingface.keys import their_pieces, to_leaves
from swm_jax.checkpoints.formats.huggingface.table import (
    EMBED_NAME,
    EMBEDDING,
    HEAD_NAME,
    canonical,
    rules_for,
)
from swm_jax.checkpoints.formats.infer_config import overrides_of
from swm_jax.checkpoints.formats.lazy_arrays import Source, model_shapes
from swm_jax.checkpoints.formats.safetensors_files import (
    PlannedTensor,
    list_tensors,
    read_json,
    write_tensors,
)
from swm_jax.models import Tokenizer
from swm_jax.models.tokenizer import TOKENIZER_FILE

SHARD_BYTES = 4_500_000_000
# Positions, their frequencies and a constant factor, as older releases stored them.
_BUFFER = re.compile(
    r"(^|\.)(position_ids|embed_tokens\.embed_scale|rotary_emb\w*\.\w*inv_freq)$"
)


def open_folder(
    folder: Path,
    tokenizer: Tokenizer | None,
    overrides: Mapping[str, Any],
    check: bool,
) -> Source:
    """Opens a folder as lazy arrays; every tensor must be used.

    Args:
      folder: with config.json and safetensors.
      tokenizer: replaces the folder's own.
      overrides: config fields set by the caller.
      check: raise an error for NaN and infinity when values are read.

    Raises:
      CheckpointError: damaged, incomplete, or config.json, tensors and tokenizer
        disagree.
    """
    path = folder / "config.json"
    found, where = read_json(path), str(path)
    facts = FolderFacts(found, where)
    own = dict(found.get(OWN) or {})
    notes = []
    if tokenizer is None and (folder / TOKENIZER_FILE).is_file():
        try:
            tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        check_tokenizer(facts, tokenizer, where)
        pieces, vocab = tokenizer.vocab_size, facts.vocab_size(tokenizer)
        if not own and pieces != vocab:
            raise CheckpointError(
                f"{folder / TOKENIZER_FILE} has {pieces} pieces, {path.name} a "
                f"vocabulary of {vocab}: a tokenizer of another vocabulary "
                "(--tokenizer replaces it)"
            )
    elif tokenizer is None and (folder / "tokenizer.json").exists():
        notes.append(
            "tokenizer.json is not read: take tokenizer.model of the same vocabulary "
            "from the model it was trained from (--tokenizer FILE)"
        )
    config = read_config(found, where, tokenizer, overrides)
    doubts = unknown_fields(found, where)
    buffers: set[str] = set()
    stored = list_tensors(folder, lambda name: not _is_buffer(name, buffers))
    if buffers:
        notes.append(
            f"{len(buffers)} buffers that hold no parameters are left out: "
            f"{', '.join(sorted(buffers)[:3])}"
        )
    shapes = model_shapes(config)
    if not facts.acts:
        shapes = {k: s for k, s in shapes.items() if not k.startswith("action/")}
        notes.append("no action projector: a fresh one is drawn when it is loaded")
    leaves = to_leaves(shapes, stored, str(folder), check)
    names = canonical(stored)
    if not _says_tied(found) and not {EMBED_NAME, HEAD_NAME} <= names.keys():
        raise CheckpointError(
            f"{where} has tie_word_embeddings false, but {folder} has no output head "
            "beside the embedding: a file of the model is missing"
        )
    if EMBED_NAME in names:
        rows = stored[names[EMBED_NAME]].shape[0]
        if facts.rows not in (None, rows):
            raise CheckpointError(
                f"{where} says vocab_size {facts.rows}, {names[EMBED_NAME]} has "
                f"{rows} rows"
            )
        if rows > config.vocab_size:
            notes.append(
                f"{rows - config.vocab_size} rows of the embedding are dropped: "
                f"placeholders and padding from {config.vocab_size} on"
            )
    image, action = facts.image_id, facts.action_id
    placeholders = {"image": image} | ({} if action is None else {"action": action})
    metadata = {
        **own,
        "model": {"variant": config.variant, "overrides": overrides_of(config)},
        "placeholders": placeholders,
    }
    return Source(
        "hugging_face",
        folder,
        config,
        leaves,
        tokenizer,
        metadata,
        (*notes, *doubts),
        tuple(doubts),
    )


def _is_buffer(name: str, found: set[str]) -> bool:
    """Whether a tensor is computed from the sizes alone; adds its name to `found`."""
    if not _BUFFER.search(name):
        return False
    found.add(name)
    return True


def _says_tied(found: Mapping[str, Any]) -> bool:
    """Whether config.json lets the output head be the embedding, as it is here."""
    text, name = found.get("text_config") or {}, "tie_word_embeddings"
    return bool(text.get(name, found.get(name, True)))


def write_folder(
    folder: Path,
    source: Source,
    dtype: np.dtype | None,
    shard_bytes: int = SHARD_BYTES,
) -> Iterator[int]:
    """Writes a source as a Hugging Face folder, tensor by tensor.

    Names follow the oldest layout, which all releases of transformers read; the tied
    output head is not stored, as in transformers.

    Yields:
      Number of bytes of every written piece.
    """
    config, metadata = source.config, source.metadata
    shapes = {key: leaf.shape for key, leaf in source.leaves.items()}
    if set(model_shapes(config)) - set(shapes) - {"action/kernel", "action/bias"}:
        raise CheckpointError("only a part was chosen: a folder needs the whole model")
    rows, tensors = embedding_rows(config, metadata), []
    for key, rule in rules_for(shapes).items():
        leaf = source.leaves[key]
        kind, shape = dtype or leaf.dtype, rule.their_shape(leaf.shape)
        if key == EMBEDDING:
            shape = (rows, shape[1])
        for name, place in rule.names(leaf.shape).items():
            pieces = their_pieces(rule, leaf, place, kind, rows)
            tensors.append(PlannedTensor(name, shape, kind, pieces))
    known = {**metadata, "placeholders": dict(zip(("image", "action"),
             placeholder_ids(config, metadata)))}  # fmt: skip
    name = str(dtype or source.leaves[EMBEDDING].dtype)
    found = write_config(config, known, "action/kernel" in shapes, name)
    text = json.dumps(found, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    if source.tokenizer:
        (folder / TOKENIZER_FILE).write_bytes(source.tokenizer.model)
    yield from write_tensors(folder, tensors, shard_bytes)
