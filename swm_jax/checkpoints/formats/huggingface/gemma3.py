"""Gemma 3's own fields of config.json: layer types, RoPE and pooled tokens."""

import math
from collections.abc import Mapping
from typing import Any

from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.models import ModelConfig

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_OFF = (
    "use_bidirectional_attention",
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
    text = found.get("text_config") or {}
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
    tokens = found.get("mm_tokens_per_image", 256)
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
    kinds = text.get("layer_types")
    if kinds:
        every = kinds.index(_GLOBAL) + 1 if _GLOBAL in kinds else max(every, depth + 1)
        regular = [_LOCAL if i % every else _GLOBAL for i in range(1, depth + 1)]
        if list(kinds) != regular:
            raise CheckpointError(
                f"{where} has layer_types that do not repeat: {', '.join(kinds[:8])}.."
            )
    return every


def _rope(text: Mapping[str, Any], where: str) -> tuple[float, float]:
    """RoPE base and scale of global layers; newer files have a dict per layer type."""
    parts = text.get("rope_parameters") or {}
    wide = {
        "rope_theta": text.get("rope_theta", _GLOBAL_BASE),
        **(text.get("rope_scaling") or {}),
        **(parts.get(_GLOBAL) or {}),
    }
    near = {
        "rope_theta": text.get("rope_local_base_freq", _LOCAL_BASE),
        **(parts.get(_LOCAL) or {}),
    }
    kind = wide.get("rope_type", "default")
    if kind not in ("default", "linear"):
        raise CheckpointError(f"{where} has RoPE of type {kind!r}, expected linear")
    if (
        near["rope_theta"] != _LOCAL_BASE
        or near.get("rope_type", "default") != "default"
    ):
        raise CheckpointError(
            f"{where} has {near} in local layers, this model has base {_LOCAL_BASE}"
        )
    scale = wide.get("factor", 1.0) if kind == "linear" else 1.0
    return float(wide["rope_theta"]), float(scale)
