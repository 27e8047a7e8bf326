"""Our tree and Hugging Face's, side by side: the mapping is a table.

A rule says which stored tensors a parameter is made of and how their axes lie. Axes
of ours have letters; theirs are the same letters in their order, and letters without
a space between them are one merged axis: ours `ndh`, theirs `nh d` means that heads
and head width are one axis of a [out, in] matrix. `{}` in a name is the layer, our
leading axis; several names are parts that ours stacks on the axis after it.

Letters: d width in, n heads, k key heads, h head width, f hidden width, v vocabulary,
p patches, x y c pixels of a patch, w decoder width, a action width, o one.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from swm_jax.checkpoints.errors import CheckpointError, listed
from swm_jax.checkpoints.formats.lazy_arrays import (
    Index,
    Leaf,
    check_finite,
    row_chunks,
)
from swm_jax.checkpoints.formats.safetensors_files import StoredTensor, read_slice

EMBEDDING = "llm/embedder/input_embedding"
EMBED_NAME = "language_model.model.embed_tokens.weight"
HEAD_NAME = "language_model.lm_head.weight"


class Rule(NamedTuple):
    """One parameter of ours and the tensors it is made of."""

    ours: str
    theirs: tuple[str, ...]
    axes: str
    order: str

    @property
    def layered(self) -> bool:
        """Whether our leading axis counts layers."""
        return "{}" in self.theirs[0]

    @property
    def lead(self) -> int:
        """How many leading axes of ours choose the tensor."""
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
        layers = range(shape[0]) if self.layered else [None]
        parts = enumerate(self.theirs)
        many = len(self.theirs) > 1
        return {
            name.format(layer): (
                *([layer] if self.layered else []),
                *([part] if many else []),
            )
            for part, name in parts
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
# Gemma 2 gave the name of Gemma's second norm to a norm after the attention.
_GEMMA2 = (
    _text("post_attention_norm/scale", ("post_attention_layernorm",), "d", "d"),
    _text("pre_ffw_norm/scale", ("pre_feedforward_layernorm",), "d", "d"),
    _text("post_ffw_norm/scale", ("post_feedforward_layernorm",), "d", "d"),
)

# Every layout that was ever written, as the oldest one.
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
      CheckpointError: a parameter that Hugging Face's model has no place for.
    """
    gemma2 = "llm/layers/post_ffw_norm/scale" in shapes
    rules = {r.ours: r for r in (*_COMMON, *(_GEMMA2 if gemma2 else _GEMMA))}
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
        usual = name
        for pattern, replacement in _ALIASES:
            if match := pattern.match(name):
                usual = replacement + name[match.end() :]
                break
        if usual in names:
            raise CheckpointError(f"{names[usual]} and {name} are the same parameter")
        names[usual] = name
    return names


def to_leaves(
    shapes: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, StoredTensor],
    where: str,
    check: bool,
) -> dict[str, Leaf]:
    """Our parameters as slices of stored tensors.

    Args:
      shapes: of our parameters, by key.
      stored: tensors by stored name.
      where: the checkpoint, for messages.
      check: refuse NaN and infinity when values are read.

    Raises:
      CheckpointError: names the tensors that are missing, left over or misshapen.
    """
    names = canonical(stored)
    if EMBED_NAME not in names and HEAD_NAME in names:
        names[EMBED_NAME] = names.pop(HEAD_NAME)  # tied, and the other name was kept
    head = names.pop(HEAD_NAME, None)
    missing, misshapen, leaves = [], [], {}
    left = dict(names)
    for key, rule in rules_for(shapes).items():
        shape, places = shapes[key], rule.names(shapes[key])
        want = rule.their_shape(shape)
        missing += [name for name in places if left.pop(name, None) is None]
        found = {name: stored[names[name]] for name in places if name in names}
        for name, tensor in found.items():
            if not _fits(key, tensor.shape, want):
                misshapen.append(f"{names[name]} has shape {tensor.shape}, not {want}")
        dtypes = {tensor.dtype for tensor in found.values()}
        if len(dtypes) > 1:
            raise CheckpointError(
                f"{where}: the layers of {rule.theirs[0]} have different dtypes: "
                f"{', '.join(sorted(map(str, dtypes)))}"
            )
        if len(found) == len(places):
            at = {place: names[name] for name, place in places.items()}
            blocks = functools.partial(_blocks, rule, shape, at, stored, where, check)
            if key == EMBEDDING and head:
                if stored[head].shape != found[EMBED_NAME].shape:
                    misshapen.append(f"{head} has another shape than {EMBED_NAME}")
                blocks = functools.partial(_tied, blocks, names, head, stored, where)
            leaves[key] = Leaf(shape, dtypes.pop(), blocks, tuple(at.values()))
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} is left over" for name in left.values()] + misshapen
    if problems:
        raise CheckpointError(
            f"{where}: config.json and tensors disagree: {listed(problems)}"
        )
    return leaves


def _fits(key: str, shape: tuple[int, ...], want: tuple[int, ...]) -> bool:
    if key == EMBEDDING:  # rows behind the vocabulary are padding
        return len(shape) == 2 and shape[1] == want[1] and shape[0] >= want[0]
    return shape == want


def _blocks(
    rule: Rule, shape, at, stored, where: str, check: bool, index: Index
) -> Iterator[tuple[Index, np.ndarray]]:
    lead, inner = index[: rule.lead], index[rule.lead :]
    sizes = rule.sizes(shape)
    asked = dict(zip(rule.axes, inner))
    groups = rule.order.split()
    # Rows of one merged axis are contiguous in its first letter only: the others are
    # read whole and cut afterwards.
    rest = {group: math.prod(sizes[a] for a in group[1:]) for group in groups}
    letters = "".join(groups)
    split = [
        asked[a].stop - asked[a].start if any(a == g[0] for g in groups) else sizes[a]
        for a in letters
    ]
    turn = [letters.index(a) for a in rule.axes]
    cut = tuple(
        slice(None) if any(a == g[0] for g in groups) else asked[a] for a in rule.axes
    )
    chunked = rule.axes == letters and len(groups) == len(letters) and not lead
    for place in np.ndindex(*[s.stop - s.start for s in lead]):
        name = at[tuple(s.start + i for s, i in zip(lead, place))]
        tensor = stored[name]
        theirs = tuple(
            slice(asked[g[0]].start * rest[g], asked[g[0]].stop * rest[g])
            for g in groups
        )
        if not chunked:
            block = _read(name, tensor, theirs, where, check)
            block = block.reshape(split).transpose(turn)[cut]
            yield tuple(slice(i, i + 1) for i in place), block[(None,) * rule.lead]
            continue
        row = math.prod(s.stop - s.start for s in theirs[1:]) * tensor.dtype.itemsize
        for rows, to in row_chunks(theirs, row):
            yield (to,), _read(name, tensor, (rows, *theirs[1:]), where, check)


def _read(name, tensor: StoredTensor, index: Index, where: str, check: bool):
    block = read_slice(name, tensor, index)
    if check:
        check_finite(f"{where}: {name}", block)
    return block


def _tied(blocks, names, head: str, stored, where: str, index: Index):
    """The embedding, compared to the stored output head as it is read."""
    for place, block in blocks(index):
        rows = slice(index[0].start + place[0].start, index[0].start + place[0].stop)
        other = read_slice(head, stored[head], (rows, index[1]))
        if other.dtype != block.dtype or other.tobytes() != block.tobytes():
            raise CheckpointError(
                f"{where}: {head} differs from {names[EMBED_NAME]} in rows "
                f"{rows.start}..{rows.stop - 1}; this model reads answers with its "
                "embedding (tied)"
            )
        yield place, block


def their_pieces(
    rule: Rule, leaf: Leaf, place: tuple[int, ...], dtype: np.dtype, rows: int
) -> Iterator[np.ndarray]:
    """The values of one stored tensor, in order.

    Args:
      rule: of the parameter.
      leaf: ours.
      place: our index on the leading axes.
      dtype: of the result.
      rows: of the stored tensor; those beyond ours repeat the mean row, whose logit
        is never the largest.
    """
    inner = leaf.whole[rule.lead :]
    if rule.ours == EMBEDDING:
        total = np.zeros(leaf.shape[1])
        for chunk, _ in row_chunks(leaf.whole, leaf.shape[1] * leaf.dtype.itemsize):
            block = leaf.read((chunk, leaf.whole[1]), dtype)
            total += block.sum(0, dtype=np.float64)
            yield block
        mean = (total / leaf.shape[0]).astype(dtype)
        yield np.broadcast_to(mean, (rows - leaf.shape[0], leaf.shape[1]))
        return
    index = (*(slice(i, i + 1) for i in place), *inner)
    block = leaf.read(index, dtype).reshape(leaf.shape[rule.lead :])
    letters = rule.order.replace(" ", "")
    yield block.transpose([rule.axes.index(a) for a in letters])
