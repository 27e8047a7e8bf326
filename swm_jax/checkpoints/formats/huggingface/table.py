"""Mapping between our parameter tree and Hugging Face's, as a table.

A rule lists the stored tensors of a parameter and the order of their axes. Our axes
have letters; theirs are the same letters in their order, and letters without a space
between them are one merged axis: ours `ndh`, theirs `nh d` means that heads and head
width are the output axis of an [out, in] matrix. `{}` in a name is the layer, our
leading axis; several names are parts that ours stacks on the next axis.

Letters: d width in, n heads, k key heads, h head width, f hidden width, v vocabulary,
p patches, x y c pixels of a patch, w decoder width, a action width, o one.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from swm_jax.checkpoints.errors import CheckpointError
from swm_jax.checkpoints.formats.safetensors_files import StoredTensor

EMBEDDING = "llm/embedder/input_embedding"
EMBED_NAME = "language_model.model.embed_tokens.weight"
HEAD_NAME = "language_model.lm_head.weight"


class Rule(NamedTuple):
    """Mapping of one parameter.

    Attributes:
      ours: key of the parameter.
      theirs: names of the stored tensors; `{}` is the layer.
      axes: letters of our axes, without the leading ones (`lead`).
      order: their axes, separated by spaces.
    """

    ours: str
    theirs: tuple[str, ...]
    axes: str
    order: str

    @property
    def layered(self) -> bool:
        """Whether our leading axis is the layer."""
        return "{}" in self.theirs[0]

    @property
    def lead(self) -> int:
        """Number of our leading axes that select the tensor: layer, part."""
        return self.layered + (len(self.theirs) > 1)

    def sizes(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Size of every letter, for our shape."""
        return dict(zip(self.axes, shape[self.lead :]))

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of each stored tensor, for our shape."""
        sizes = self.sizes(shape)
        groups = self.order.split()
        return tuple(math.prod(sizes[a] for a in group) for group in groups)

    def names(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Stored name -> our index on the leading axes."""
        layers = [(i,) for i in range(shape[0])] if self.layered else [()]
        many = len(self.theirs) > 1
        return {
            name.format(*layer): (*layer, *([part] if many else []))
            for part, name in enumerate(self.theirs)
            for layer in layers
        }


_TEXT = "language_model.model.layers.{}."
_VISION = "vision_tower.vision_model.encoder.layers.{}."
_BLOCK = "img/Transformer/encoderblock/"


def _vision(ours: str, theirs: str, axes: str, order: str) -> Rule:
    return Rule(_BLOCK + ours, (_VISION + theirs,), axes, order)


def _text(ours: str, theirs: tuple[str, ...], axes: str, order: str) -> Rule:
    names = tuple(f"{_TEXT}{name}.weight" for name in theirs)
    return Rule(f"llm/layers/{ours}", names, axes, order)


def _attention(name: str, theirs: str) -> tuple[Rule, Rule]:
    ours = f"MultiHeadDotProductAttention_0/{name}/"
    theirs = f"self_attn.{theirs}."
    if name == "out":
        return (
            _vision(ours + "kernel", theirs + "weight", "nhd", "d nh"),
            _vision(ours + "bias", theirs + "bias", "d", "d"),
        )
    return (
        _vision(ours + "kernel", theirs + "weight", "dnh", "nh d"),
        _vision(ours + "bias", theirs + "bias", "nh", "nh"),
    )


_EMBEDDINGS = "vision_tower.vision_model.embeddings."
_POST = "vision_tower.vision_model.post_layernorm."
_COMMON = (
    Rule("img/embedding/kernel", (_EMBEDDINGS + "patch_embedding.weight",),
         "xycd", "d c x y"),
    Rule("img/embedding/bias", (_EMBEDDINGS + "patch_embedding.bias",), "d", "d"),
    Rule("img/pos_embedding", (_EMBEDDINGS + "position_embedding.weight",),
         "opd", "op d"),
    Rule("img/Transformer/encoder_norm/scale", (_POST + "weight",), "d", "d"),
    Rule("img/Transformer/encoder_norm/bias", (_POST + "bias",), "d", "d"),
    Rule("img/head/kernel", ("multi_modal_projector.linear.weight",), "dw", "w d"),
    Rule("img/head/bias", ("multi_modal_projector.linear.bias",), "w", "w"),
    *(
        _vision(f"LayerNorm_{i}/{ours}", f"layer_norm{i + 1}.{theirs}", "d", "d")
        for i in range(2)
        for ours, theirs in (("scale", "weight"), ("bias", "bias"))
    ),
    *_attention("query", "q_proj"),
    *_attention("key", "k_proj"),
    *_attention("value", "v_proj"),
    *_attention("out", "out_proj"),
    _vision("MlpBlock_0/Dense_0/kernel", "mlp.fc1.weight", "df", "f d"),
    _vision("MlpBlock_0/Dense_0/bias", "mlp.fc1.bias", "f", "f"),
    _vision("MlpBlock_0/Dense_1/kernel", "mlp.fc2.weight", "fd", "d f"),
    _vision("MlpBlock_0/Dense_1/bias", "mlp.fc2.bias", "d", "d"),
    Rule(EMBEDDING, (EMBED_NAME,), "vd", "v d"),
    Rule("llm/final_norm/scale", ("language_model.model.norm.weight",), "d", "d"),
    _text("attn/q_einsum/w", ("self_attn.q_proj",), "ndh", "nh d"),
    _text("attn/kv_einsum/w", ("self_attn.k_proj", "self_attn.v_proj"),
          "kdh", "kh d"),
    _text("attn/attn_vec_einsum/w", ("self_attn.o_proj",), "nhd", "d nh"),
    _text("mlp/gating_einsum", ("mlp.gate_proj", "mlp.up_proj"), "df", "f d"),
    _text("mlp/linear", ("mlp.down_proj",), "fd", "d f"),
    _text("pre_attention_norm/scale", ("input_layernorm",), "d", "d"),
    Rule("action/kernel", ("action_projector.linear.weight",), "aw", "w a"),
    Rule("action/bias", ("action_projector.linear.bias",), "w", "w"),
)  # fmt: skip
_GEMMA = (_text("pre_ffw_norm/scale", ("post_attention_layernorm",), "d", "d"),)
# Gemma 2 reuses the name of Gemma's second norm for its norm after attention.
_GEMMA2 = (
    _text("post_attention_norm/scale", ("post_attention_layernorm",), "d", "d"),
    _text("pre_ffw_norm/scale", ("pre_feedforward_layernorm",), "d", "d"),
    _text("post_ffw_norm/scale", ("post_feedforward_layernorm",), "d", "d"),
)

_GEMMA3 = (
    *_GEMMA2,
    _text("attn/query_norm/scale", ("self_attn.q_norm",), "h", "h"),
    _text("attn/key_norm/scale", ("self_attn.k_norm",), "h", "h"),
    Rule("img/soft_norm/scale", ("multi_modal_projector.mm_soft_emb_norm.weight",),
         "d", "d"),
    # The one matrix that is stored as [in, out].
    Rule("img/head/kernel", ("multi_modal_projector.mm_input_projection_weight",),
         "dw", "d w"),
)  # fmt: skip

# Name prefixes of all published layouts -> the oldest one.
_ALIASES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"(model\.)?language_model\.(model\.)?(?=(embed_tokens|layers|norm)\.)",
         "language_model.model."),
        (r"((model\.)?language_model\.)?lm_head\.", "language_model.lm_head."),
        (r"(model\.)?vision_tower\.(vision_model\.)?", "vision_tower.vision_model."),
        (r"(model\.)?(?=(multi_modal_projector|action_projector)\.)", ""),
    )
)  # fmt: skip


def rules_for(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Rule]:
    """The rule of every parameter of a tree.

    Args:
      shapes: of our parameters, by key.

    Raises:
      CheckpointError: a parameter without a Hugging Face name.
    """
    own = _GEMMA2 if "llm/layers/post_ffw_norm/scale" in shapes else _GEMMA
    if "llm/layers/attn/query_norm/scale" in shapes:
        own = _GEMMA3
    rules = {rule.ours: rule for rule in (*_COMMON, *own)}
    unknown = sorted(shapes.keys() - rules.keys())
    if unknown:
        raise CheckpointError(f"{', '.join(unknown[:3])} has no Hugging Face name")
    return {key: rules[key] for key in shapes}


def canonical(stored: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Name in the oldest layout -> stored name.

    Raises:
      CheckpointError: two stored tensors are the same parameter.
    """
    names: dict[str, str] = {}
    for name in stored:
        usual = usual_name(name)
        if usual in names:
            raise CheckpointError(f"{names[usual]} and {name} are the same parameter")
        names[usual] = name
    return names


def usual_name(name: str) -> str:
    """A stored name as the oldest layout has it; unknown ones stay as they are."""
    for pattern, replacement in _ALIASES:
        if match := pattern.match(name):
            return replacement + name[match.end() :]
    return name
