"""Gemma 3's own fields of config.json: layer types, RoPE and pooled tokens."""

import math
from collections.abc import Mapping
from typing import Any

from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.checkpoints.formats.huggingface.fields import (
    TEXT,
    part_of,
    read_rope,
    whole,
)
from swm_jax.models import ModelConfig

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_OFF = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
)
_LOCAL_BASE, _GLOBAL_BASE = 10_000.0, 1_000_000.0


def read(
    found: Mapping[str, Any], sizes: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Reads Gemma 3's fields of `ModelConfig`.

    Args:
      found: contents of config.json.
      sizes: fields already read from it.
      where: its path, for messages.

    Raises:
      CheckpointError: unsupported layer types, RoPE or number of image tokens.
    """
    text = part_of(found, TEXT, where)
    for name in _OFF:
        if text.get(name):
            raise CheckpointError(
                f"{where} has {name} {text[name]}, this model has none"
            )
    base, scale = _rope(text, where)
    return {
        "pool": _pool(found, sizes, where),
        "global_every": _global_every(text, sizes["depth"], where),
        "rope_base": base,
        "rope_scale": scale,
        "causal_text": True,
        "attention_softcap": 0.0,
        "final_softcap": 0.0,
    }


def write(config: ModelConfig, found: dict[str, Any]) -> None:
    """Adds the fields of `read` to a config.json, in the format of first releases."""
    found["mm_tokens_per_image"] = config.image_tokens
    found["text_config"] |= {
        "sliding_window_pattern": config.global_every,
        "rope_theta": config.rope_base,
        "rope_local_base_freq": _LOCAL_BASE,
    }
    if config.rope_scale != 1:
        scaling = {"rope_type": "linear", "factor": config.rope_scale}
        found["text_config"]["rope_scaling"] = scaling


def _pool(found, sizes, where: str) -> int:
    tokens = whole(found, "mm_tokens_per_image", 256, where)
    side = sizes["image_size"] // sizes["patch_size"]
    pool = side // max(math.isqrt(tokens), 1)
    if not pool or (side // pool) ** 2 != tokens or side % pool:
        raise CheckpointError(
            f"{where} has mm_tokens_per_image {tokens}, which are no squares of "
            f"{side} x {side} patches"
        )
    return pool


def _global_every(text: Mapping[str, Any], depth: int, where: str) -> int:
    names = ("sliding_window_pattern", "_sliding_window_pattern")
    every = next((text[name] for name in names if text.get(name)), 6)
    if not isinstance(every, int) or every < 1:
        raise CheckpointError(f"{where} has sliding_window_pattern {every!r:.60}")
    kinds = text.get("layer_types")
    if kinds:
        if not isinstance(kinds, list):
            raise CheckpointError(f"{where} has layer_types {kinds!r:.60}")
        every = kinds.index(_GLOBAL) + 1 if _GLOBAL in kinds else max(every, depth + 1)
        regular = [_LOCAL if i % every else _GLOBAL for i in range(1, depth + 1)]
        if list(kinds) != regular:
            first = ", ".join(map(str, kinds[:8]))
            raise CheckpointError(
                f"{where} has layer_types that do not repeat: {first}.."
            )
    return every


def _rope(text: Mapping[str, Any], where: str) -> tuple[float, float]:
    """RoPE base and scale of global layers; newer files have a dict per layer type."""
    parts = part_of(text, "rope_parameters", where)
    flat = {k: v for k, v in parts.items() if k not in (_GLOBAL, _LOCAL)}
    wide = {
        "rope_theta": text.get("rope_theta", _GLOBAL_BASE),
        **part_of(text, "rope_scaling", where),
        **flat,
        **part_of(parts, _GLOBAL, where),
    }
    near = {
        "rope_theta": text.get("rope_local_base_freq", _LOCAL_BASE),
        **part_of(parts, _LOCAL, where),
    }
    if read_rope(near, _LOCAL_BASE, where) != (_LOCAL_BASE, 1):
        raise CheckpointError(
            f"{where} has {near} in local layers, this model has base {_LOCAL_BASE}"
        )
    return read_rope(wide, _GLOBAL_BASE, where)
