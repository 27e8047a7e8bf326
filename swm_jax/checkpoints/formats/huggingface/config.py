"""Conversion between Hugging Face's config.json and our `ModelConfig`.

Published files omit fields equal to the default of their `model_type`, so these
defaults are part of the format (tables below). What else a file says is in `fields`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.checkpoints.formats.huggingface import gemma3
from swm_jax.checkpoints.formats.huggingface.fields import (
    TEXT,
    VISION,
    check_fields,
    number,
    part_of,
    read_rope,
    whole,
)
from swm_jax.checkpoints.formats.infer_config import (
    closest_variant,
    known_fields,
    overrides_of,
)
from swm_jax.models import ModelConfig, Tokenizer, get_config

# model_type -> model types of its decoder, the first of which is the default
_DECODERS = {"paligemma": ("gemma", "gemma2"), "gemma3": ("gemma3_text",)}
_ARCHITECTURES = {
    "paligemma": "PaliGemmaForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
}
_ACTS = "_wm"  # model_type suffix of world models, which have an action projector
OWN = "swm_jax"  # our key in config.json: layout, step and the like

# ours: (theirs, default)
_VISION: dict[str, tuple[str, Any]] = {
    "vision_width": ("hidden_size", 768),
    "vision_depth": ("num_hidden_layers", 12),
    "vision_mlp": ("intermediate_size", 3072),
    "vision_heads": ("num_attention_heads", 12),
    "patch_size": ("patch_size", 16),
    "image_size": ("image_size", 224),
}
_TEXT: dict[str, dict[str, tuple[str, Any]]] = {
    "gemma": {
        "width": ("hidden_size", 3072),
        "depth": ("num_hidden_layers", 28),
        "mlp": ("intermediate_size", 24576),
        "heads": ("num_attention_heads", 16),
        "kv_heads": ("num_key_value_heads", 16),
        "head_dim": ("head_dim", 256),
    },
    "gemma2": {
        "width": ("hidden_size", 2304),
        "depth": ("num_hidden_layers", 26),
        "mlp": ("intermediate_size", 9216),
        "heads": ("num_attention_heads", 8),
        "kv_heads": ("num_key_value_heads", 4),
        "head_dim": ("head_dim", 256),
        "query_width": ("query_pre_attn_scalar", 256),
        "attention_softcap": ("attn_logit_softcapping", 50.0),
        "final_softcap": ("final_logit_softcapping", 30.0),
    },
    "gemma3_text": {
        "width": ("hidden_size", 2304),
        "depth": ("num_hidden_layers", 26),
        "mlp": ("intermediate_size", 9216),
        "heads": ("num_attention_heads", 8),
        "kv_heads": ("num_key_value_heads", 4),
        "head_dim": ("head_dim", 256),
        "query_width": ("query_pre_attn_scalar", 256),
        "window": ("sliding_window", 4096),
    },
}
# Our values for null, which disables a feature.
_NULL = {"attention_softcap": 0.0, "final_softcap": 0.0, "window": 0}
_NUMBERS = ("attention_softcap", "final_softcap", "query_width")
_ROPE_BASE = 10_000.0


class FolderFacts:
    """Fields of a config.json beyond the architecture.

    Attributes:
      backbone: name in our registry.
      acts: whether there is an action projector.
      image_id, action_id: ids of the placeholder tokens; the latter may be None.
      rows: rows of the stored embedding, padding included; None if absent.
      eos, bos: token ids; None if absent.

    Raises:
      CheckpointError: another model_type, a quantised model, or no image token.
    """

    def __init__(self, found: Mapping[str, Any], where: str):
        kind = str(found.get("model_type"))
        self.backbone, self.acts = kind.removesuffix(_ACTS), kind.endswith(_ACTS)
        if self.backbone not in _DECODERS:
            raise CheckpointError(
                f"{where} has model_type {found.get('model_type')!r}, expected "
                f"{' or '.join(_DECODERS)}, {_ACTS} behind it for a world model"
            )
        if found.get("quantization_config"):
            raise CheckpointError(
                f"{where} describes a quantised checkpoint, which is not supported"
            )
        image_id = _token(found, "image", where)
        if image_id is None:
            raise CheckpointError(f"{where} has no image_token_index or image_token_id")
        self.image_id = image_id
        self.action_id = _token(found, "action", where)
        text = part_of(found, TEXT, where)
        self.rows = text.get("vocab_size")
        self.eos, self.bos = (
            found.get(f"{name}_token_id", text.get(f"{name}_token_id"))
            for name in ("eos", "bos")
        )

    def vocab_size(self, tokenizer: Tokenizer | None) -> int:
        """Size of the vocabulary without placeholder tokens and padding after it."""
        pieces = tokenizer.vocab_size if tokenizer else self.image_id
        ids = [i for i in (self.image_id, self.action_id) if i is not None]
        return min([i for i in ids if i >= pieces], default=self.image_id)


def _token(found: Mapping[str, Any], name: str, where: str) -> int | None:
    keys = (f"{name}_token_id", f"{name}_token_index")
    values = {found[key] for key in keys if isinstance(found.get(key), int)}
    if len(values) > 1:
        raise CheckpointError(f"{where} has two values of {keys[0]}: {values}")
    return values.pop() if values else None


def read_config(
    found: Mapping[str, Any],
    where: str,
    tokenizer: Tokenizer | None,
    overrides: Mapping[str, Any],
) -> ModelConfig:
    """`ModelConfig` of a config.json.

    Args:
      found: contents of config.json.
      where: its path, for messages.
      tokenizer: the folder's, for the ids of eos, bos and newline.
      overrides: fields set by the caller.

    Raises:
      CheckpointError: another kind of model, or constants that our model lacks.
    """
    facts = FolderFacts(found, where)
    text, vision = part_of(found, TEXT, where), part_of(found, VISION, where)
    kinds = _DECODERS[facts.backbone]
    kind = text.get("model_type", kinds[0])
    if kind not in kinds:
        raise CheckpointError(
            f"{where} has a text model of type {kind!r}, expected {', '.join(kinds)}"
        )
    check_fields(found, kind, where)
    if facts.backbone != "gemma3":  # has RoPE of its own
        _check_rope(text, where)
    sizes = {
        "backbone": facts.backbone,
        **{ours: whole(vision, *x, where=where) for ours, x in _VISION.items()},
        **{ours: _size(text, ours, *x, where=where) for ours, x in _TEXT[kind].items()},
        "post_norms": kind != "gemma",
    }
    if facts.backbone == "gemma3":
        sizes |= gemma3.read(found, sizes, where)
    if sizes.get("query_width") == sizes["head_dim"]:
        sizes["query_width"] = 0
    own = part_of(part_of(found, OWN, where), "model", f"{where}: {OWN}")
    variant = own.get("variant") or closest_variant(sizes)
    values = {
        **({} if own else {"layout": "full"}),
        **part_of(own, "overrides", f"{where}: {OWN}"),
        **known_fields(sizes),
        "vocab_size": facts.vocab_size(tokenizer),
    }
    if facts.acts:
        if not isinstance(found.get("action_input_dim"), int):
            raise CheckpointError(f"{where} has no action_input_dim")
        values["action_size"] = found["action_input_dim"]
    if tokenizer:
        values.update(special_ids(tokenizer))
    try:
        return get_config(variant, **{**values, **overrides})
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def unknown_fields(found: Mapping[str, Any], where: str) -> list[str]:
    """A line for the user about fields of no known meaning, if there are some.

    Args:
      found: contents of a config.json that `read_config` takes.
      where: its path.
    """
    kinds = _DECODERS[FolderFacts(found, where).backbone]
    kind = part_of(found, TEXT, where).get("model_type", kinds[0])
    return check_fields(found, kind, where)


def _size(
    text: Mapping[str, Any], ours: str, theirs: str, default: Any, *, where: str
) -> Any:
    if ours in _NULL and not text.get(theirs, default):
        return _NULL[ours]
    return (number if ours in _NUMBERS else whole)(text, theirs, default, where)


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Config fields given by a tokenizer: ids of eos, bos and newline."""
    return {
        name: getattr(tokenizer, name) for name in ("eos_id", "bos_id", "newline_id")
    }


def check_tokenizer(facts: FolderFacts, tokenizer: Tokenizer, where: str) -> None:
    """Raises a CheckpointError if config.json has another vocabulary."""
    for name, said, has in (
        ("eos_token_id", facts.eos, tokenizer.eos_id),
        ("bos_token_id", facts.bos, tokenizer.bos_id),
    ):
        if isinstance(said, int) and said != has:
            raise CheckpointError(
                f"{where} has {name} {said}, its tokenizer {has}: a tokenizer of "
                "another vocabulary"
            )
    if tokenizer.vocab_size > facts.image_id:
        raise CheckpointError(
            f"{where} has the image token at {facts.image_id}, its tokenizer "
            f"{tokenizer.vocab_size} pieces: a tokenizer of another vocabulary"
        )


def _check_rope(text: Mapping[str, Any], where: str) -> None:
    """Raises a CheckpointError unless Gemma 1 or 2 has the RoPE of our model."""
    for name in ("rope_parameters", "rope_scaling"):
        settings = part_of(text, name, where)
        layers = [x for x in settings.values() if isinstance(x, Mapping)] or [settings]
        for each in layers:
            base, scale = read_rope(each, _ROPE_BASE, f"{where}: {name}")
            if (base, scale) != (_ROPE_BASE, 1):
                raise CheckpointError(
                    f"{where}: {TEXT} has {name} {dict(each)}, this model has none"
                )
    if text.get("rope_theta", _ROPE_BASE) != _ROPE_BASE:
        raise CheckpointError(
            f"{where}: {TEXT} has rope_theta {text['rope_theta']}, this model has "
            f"{_ROPE_BASE}"
        )


def write_config(
    config: ModelConfig, metadata: Mapping[str, Any], action: bool, dtype: str
) -> dict[str, Any]:
    """The config.json of a model.

    Args:
      config: ours.
      metadata: of the source; has the ids of placeholder tokens if it was a Hugging
        Face folder.
      action: whether there is an action projector.
      dtype: of most tensors.
    """
    fields = dataclasses.asdict(config)
    kind = _DECODERS[config.backbone][-1 if config.post_norms else 0]
    fields["query_width"] = config.query_width or config.head_dim
    for name in _NULL:
        fields[name] = fields[name] or None
    image, actions = placeholder_ids(config, metadata)
    text = {theirs: fields[ours] for ours, (theirs, _) in _TEXT[kind].items()}
    vision = {theirs: fields[ours] for ours, (theirs, _) in _VISION.items()}
    found = {
        "model_type": config.backbone + (_ACTS if action else ""),
        "image_token_index": image,
        "projection_dim": config.width,
        "hidden_size": config.width,
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_id,
        "pad_token_id": 0,
        "torch_dtype": dtype,
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": kind,
            "vocab_size": embedding_rows(config, metadata),
            "num_image_tokens": config.image_tokens,
            "tie_word_embeddings": True,
            **text,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "num_image_tokens": config.image_tokens,
            "projection_dim": config.width,
            "vision_use_head": False,
            **vision,
        },
        OWN: {
            **{k: v for k, v in metadata.items() if k != "model"},
            "model": {"variant": config.variant, "overrides": overrides_of(config)},
        },
    }
    if config.backbone == "gemma3":
        gemma3.write(config, found)
    if action:
        found |= {"action_input_dim": config.action_size, "action_token_index": actions}
    else:
        found["architectures"] = [_ARCHITECTURES[config.backbone]]
    return found


def placeholder_ids(
    config: ModelConfig, metadata: Mapping[str, Any]
) -> tuple[int, int]:
    """Ids of the image and action tokens: stored, or the first after the vocabulary."""
    known = metadata.get("placeholders", {})
    image = known.get("image", config.vocab_size)
    return image, known.get("action", config.vocab_size + 1)


def embedding_rows(config: ModelConfig, metadata: Mapping[str, Any]) -> int:
    """Rows of the stored embedding with placeholders, rounded up to 64."""
    return (
        -(-(max(config.vocab_size, *placeholder_ids(config, metadata)) + 1) // 64) * 64
    )
