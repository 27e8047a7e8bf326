"""What the fields of config.json mean for the numbers of a model.

A field is of one of three kinds: it is used (read by `config` and `gemma3`), it must
have one value, as our model implements no other, or it is known to change no number.
Fields of no kind are named to the user, who alone can tell.
"""

from collections.abc import Mapping
from typing import Any

from swm_jax.checkpoints.errors import CheckpointError

TEXT, VISION = "text_config", "vision_config"
_TANH = ("gelu_pytorch_tanh", "gelu_new")  # the same formula; ours, as in big_vision
_NO = (False, None)

# part -> field -> the values that our model implements, the first of them by default
_FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    "": {"is_encoder_decoder": _NO, "per_layer_config": (None, {})},
    TEXT: {
        "rms_norm_eps": (1e-6,),
        "attention_bias": _NO,
        "hidden_activation": (*_TANH, None),
        "hidden_act": (*_TANH, None),
        "is_encoder_decoder": _NO,
        "add_cross_attention": _NO,
        "pruned_heads": (None, {}),
        "per_layer_config": (None, {}),
    },
    VISION: {
        "model_type": ("siglip_vision_model",),
        "layer_norm_eps": (1e-6,),
        "num_channels": (3,),
        "vision_use_head": _NO,
        "hidden_act": _TANH,
        "pruned_heads": (None, {}),
        "per_layer_config": (None, {}),
    },
}
# Local layers of Gemma 2 see this far back: all that our sequences have.
_GEMMA2_WINDOW = 4096

_USED = {
    "": """model_type text_config vision_config image_token_id image_token_index
        action_token_id action_token_index action_input_dim mm_tokens_per_image
        quantization_config swm_jax tie_word_embeddings""",
    TEXT: """model_type vocab_size hidden_size num_hidden_layers intermediate_size
        num_attention_heads num_key_value_heads head_dim rope_theta rope_scaling
        rope_parameters use_bidirectional_attention tie_word_embeddings""",
    VISION: """hidden_size num_hidden_layers intermediate_size num_attention_heads
        patch_size image_size""",
}
_USED_BY = {  # beside the decoder's own
    "gemma": "",
    "gemma2": """query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping
        sliding_window""",
    "gemma3_text": """query_pre_attn_scalar attn_logit_softcapping
        final_logit_softcapping sliding_window sliding_window_pattern
        _sliding_window_pattern layer_types rope_local_base_freq""",
}

_HARMLESS = """
    _name_or_path name_or_path _commit_hash _attn_implementation
    _attn_implementation_autoset _attn_implementation_internal attn_implementation
    architectures auto_map transformers_version model_name unsloth_version unsloth_fixed
    torch_dtype dtype use_bfloat16 torchscript tf_legacy_loss return_dict
    output_hidden_states output_attentions output_scores return_dict_in_generate
    initializer_range attention_dropout gradient_checkpointing use_cache
    cache_implementation max_position_embeddings chunk_size_feed_forward is_decoder
    num_image_tokens projection_dim pad_token_id bos_token_id eos_token_id sep_token_id
    decoder_start_token_id forced_bos_token_id forced_eos_token_id ignore_index
    cross_attention_hidden_size tie_encoder_decoder tokenizer_class prefix
    finetuning_task id2label label2id num_labels problem_type task_specific_params
    max_length min_length do_sample early_stopping num_beams num_beam_groups
    diversity_penalty temperature top_k top_p typical_p repetition_penalty
    length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences remove_invalid_values exponential_decay_length_penalty
    suppress_tokens begin_suppress_tokens
"""  # bookkeeping, training, generation and memory
_HARMLESS_IN = {
    # Sizes that the parts say again; marks around an image, which our prompts have not.
    "": """vocab_size hidden_size boi_token_id boi_token_index eoi_token_id
        eoi_token_index""",
    # Which layers are local: all are alike in a window that holds everything.
    TEXT: "layer_types _sliding_window_pattern sliding_window_pattern",
    VISION: "vocab_size model_type",
}


def check_fields(found: Mapping[str, Any], decoder: str, where: str) -> list[str]:
    """Checks the fields of one value, and lists those of no known kind.

    Args:
      found: contents of config.json.
      decoder: model type of its text part.
      where: its path, for messages.

    Returns:
      A line for the user if there are such fields.

    Raises:
      CheckpointError: a value that our model does not implement.
    """
    unknown = []
    for part, constants in _FIXED.items():
        given = part_of(found, part, where) if part else found
        name = part or "it"
        for field, values in constants.items():
            if given.get(field, values[0]) not in values and not (
                part == TEXT and _ignored(given, field)
            ):
                raise CheckpointError(
                    f"{where}: {name} has {field} {given[field]!r:.60}, this model has "
                    f"{values[0]}"
                )
        known = {*constants, *_USED[part].split(), *_HARMLESS_IN[part].split()}
        if part == TEXT:
            known |= {*_USED_BY[decoder].split()}
            _check_decoder(given, decoder, where)
        for field in given.keys() - known - {*_HARMLESS.split()}:
            if given[field] is not None:
                unknown.append(f"{part}{'.' * bool(part)}{field}")
    if not unknown:
        return []
    return [f"{where} has fields that are not known, and ignored: "
            f"{', '.join(sorted(unknown))}"]  # fmt: skip


def part_of(found: Mapping[str, Any], part: str, where: str) -> Mapping[str, Any]:
    """A part of config.json, empty if absent; raises a CheckpointError if no object."""
    given = found.get(part)
    if given is not None and not isinstance(given, Mapping):
        raise CheckpointError(f"{where}: {part} is {given!r:.60}, expected an object")
    return given or {}


def whole(given: Mapping[str, Any], field: str, default: int, where: str) -> int:
    """A size; raises a CheckpointError for anything but a whole number from 1 on."""
    value = given.get(field, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(
            f"{where} has {field} {value!r:.60}, expected a whole number from 1 on"
        )
    return value


def number(given: Mapping[str, Any], field: str, default: float, where: str) -> float:
    """A number above 0; raises a CheckpointError for anything else."""
    value = given.get(field, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < 1e30:
        raise CheckpointError(
            f"{where} has {field} {value!r:.60}, expected a number above 0"
        )
    return value


def read_rope(
    settings: Mapping[str, Any], base: float, where: str
) -> tuple[float, float]:
    """RoPE base and position divisor of `rope_scaling` or `rope_parameters`.

    Args:
      settings: `rope_theta`, `rope_type` (once called `type`) and `factor`.
      base: where they have no `rope_theta`.
      where: names file and field, for messages.

    Raises:
      CheckpointError: another type than default and linear, or unknown settings.
    """
    kinds = [settings[key] for key in ("rope_type", "type") if settings.get(key)]
    kind = kinds[0] if kinds else "default"
    if kinds[1:] not in ([], [kind]):
        raise CheckpointError(f"{where} has RoPE of two types, {kinds}")
    if kind not in ("default", "linear"):
        raise CheckpointError(f"{where} has RoPE of type {kind!r}, expected linear")
    theta = number(settings, "rope_theta", base, where)
    scale = 1.0
    if kind == "linear":
        scale = number(settings, "factor", 0, where)
    known = {"rope_theta", "rope_type", "type", "factor", _TRAINED_LENGTH}
    extra = {k: v for k, v in settings.items() if k not in known and v is not None}
    if kind == "default" and settings.get("factor") not in (None, 1):
        extra["factor"] = settings["factor"]
    if extra.pop("partial_rotary_factor", 1) != 1 or extra:
        raise CheckpointError(
            f"{where} has RoPE of type {kind!r} with {dict(settings)}, this model has "
            "rope_theta and, of type linear, factor"
        )
    return float(theta), float(scale)


_TRAINED_LENGTH = "original_max_position_embeddings"


def _ignored(text: Mapping[str, Any], field: str) -> bool:
    """Gemma's first releases say "gelu" and mean `hidden_activation`."""
    said = text.get("hidden_act"), text.get("hidden_activation")
    return field == "hidden_act" and said[0] == "gelu" and said[1] in _TANH


def _check_decoder(text: Mapping[str, Any], decoder: str, where: str) -> None:
    both = text.get("use_bidirectional_attention")
    # PaliGemma's prompt sees itself whole, Gemma 3's text does not.
    if both not in ((False, None) if decoder == "gemma3_text" else (True, None)):
        raise CheckpointError(
            f"{where} has use_bidirectional_attention {both}, this model has "
            f"{decoder != 'gemma3_text'}"
        )
    window = text.get("sliding_window")
    least = _GEMMA2_WINDOW
    if decoder != "gemma2" or window is None:
        return
    if whole(text, "sliding_window", least, where) < least:
        raise CheckpointError(
            f"{where} has sliding_window {window}, this model has none: expected at "
            f"least {least}"
        )
