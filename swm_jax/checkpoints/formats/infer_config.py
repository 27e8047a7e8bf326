"""Model configs from parameter shapes, and configs as variant and overrides."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.models import VARIANTS, ModelConfig, get_config

ARCHITECTURE = [
    "image_size",
    "patch_size",
    "vision_width",
    "vision_depth",
    "vision_mlp",
    "vision_heads",
    "width",
    "depth",
    "mlp",
    "heads",
    "kv_heads",
    "head_dim",
    "post_norms",
    "backbone",
]
_FIELDS = tuple(field.name for field in dataclasses.fields(ModelConfig))


def known_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are fields of `ModelConfig`."""
    return {name: value for name, value in values.items() if name in _FIELDS}


def overrides_of(config: ModelConfig) -> dict[str, Any]:
    """The fields in which a config differs from its variant's preset."""
    preset = dataclasses.asdict(get_config(config.variant))
    mine = dataclasses.asdict(config)
    return {name: value for name, value in mine.items() if value != preset[name]}


def closest_variant(architecture: Mapping[str, Any]) -> str:
    """The variant with this architecture, otherwise a published one to override.

    Args:
      architecture: values of `ARCHITECTURE` (`post_norms` is True for Gemma 2).
    """
    wanted = known_fields(architecture)
    for name in VARIANTS:
        config = get_config(name)
        if all(getattr(config, field) == value for field, value in wanted.items()):
            return name
    if architecture["backbone"] == "gemma3":
        return "gemma3_4b"
    return "paligemma2_3b_224" if architecture["post_norms"] else "paligemma_3b_224"


def architecture_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Sizes of a model from the shapes of its parameters.

    Raises:
      CheckpointError: a tensor that determines a size is missing or misshapen.
    """
    try:
        _, _, kv_heads, _, head_dim = _axes(5, shapes, "attn/kv_einsum/w")
        depth, heads, width, _ = _axes(4, shapes, "attn/q_einsum/w")
        mlp = _axes(3, shapes, "mlp/linear")[1]
        vocab, _ = shapes["llm/embedder/input_embedding"]
        block = "img/Transformer/encoderblock/"
        query = shapes[f"{block}MultiHeadDotProductAttention_0/query/kernel"]
        vision_depth, vision_width, vision_heads, _ = query
        vision_mlp = shapes[f"{block}MlpBlock_0/Dense_0/kernel"][2]
        patch = shapes["img/embedding/kernel"][0]
        patches = shapes["img/pos_embedding"][1]
    except KeyError as error:
        raise CheckpointError(f"{error.args[0]} is missing") from error
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            "its tensors have other axes than big_vision's"
        ) from error
    return {
        "image_size": math.isqrt(patches) * patch,
        "patch_size": patch,
        "vision_width": vision_width,
        "vision_depth": vision_depth,
        "vision_mlp": vision_mlp,
        "vision_heads": vision_heads,
        "width": width,
        "depth": depth,
        "mlp": mlp,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "post_norms": "llm/layers/post_ffw_norm/scale" in shapes,
        "backbone": "gemma3"
        if "llm/layers/attn/query_norm/scale" in shapes
        else "paligemma",
        "vocab_size": vocab,
    }


def _axes(count: int, shapes, name: str) -> tuple[int, ...]:
    shape = shapes[f"llm/layers/{name}"]
    if len(shape) != count:
        raise ValueError(name)
    return shape
