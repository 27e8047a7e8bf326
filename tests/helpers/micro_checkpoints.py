"""Checkpoints of a few kilobytes, as others write them: width 32, two layers.

Everything here is written from the published description of the formats with numpy
and safetensors alone, so that the code under test meets files that it did not write.
"""

import io
import json

import ml_dtypes
import numpy as np
import sentencepiece
from safetensors.numpy import save_file

PIECES, ROWS = 96, 128
TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=1, head_dim=8,
            vocab_size=ROWS)  # fmt: skip
VISION = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2,
              num_attention_heads=3, patch_size=4, image_size=16)  # fmt: skip
# What Gemma 3 says beside: 2 x 2 patches a token, layers in pairs.
GEMMA3 = dict(query_pre_attn_scalar=8, sliding_window=6, sliding_window_pattern=2,
              rope_scaling={"rope_type": "linear", "factor": 4.0})  # fmt: skip
BF16 = np.dtype(ml_dtypes.bfloat16)
NORMS = {
    "gemma": ("input_layernorm", "post_attention_layernorm"),
    "gemma2": (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
}
NORMS["gemma3_text"] = NORMS["gemma2"]


def sentencepiece_model(pieces=PIECES, eos_id=1, bos_id=2) -> bytes:
    """A SentencePiece model with PaliGemma's conventions and this many pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["is the red moon near yes no"] * 20),
        model_writer=model,
        vocab_size=pieces,
        hard_vocab_limit=True,
        pad_id=0,
        eos_id=eos_id,
        bos_id=bos_id,
        unk_id=3,
        model_type="bpe",
        user_defined_symbols=["\n", "yes", "no", "is", "?"]
        + [f"<loc{i:04d}>" for i in range(pieces - 40)],
        minloglevel=2,
    )
    return model.getvalue()


def config_json(kind="gemma", action_size=None) -> dict:
    """What the folder says about itself; the action size makes it a world model."""
    backbone = "gemma3" if kind == "gemma3_text" else "paligemma"
    found = {
        "model_type": backbone if action_size is None else f"{backbone}_wm",
        "image_token_index": PIECES,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "projection_dim": 32,
        "text_config": {"model_type": kind, **TEXT},
        "vision_config": {"model_type": "siglip_vision_model", **VISION},
    }
    if kind == "gemma2":
        found["text_config"]["query_pre_attn_scalar"] = 8
    if kind == "gemma3_text":
        found["text_config"] |= GEMMA3
        found["mm_tokens_per_image"] = 4
    if action_size is not None:
        found |= {"action_input_dim": action_size, "action_token_index": PIECES + 1}
    return found


def tensors(seed=0, dtype=np.float32, kind="gemma", action_size=None) -> dict:
    """Random tensors in the oldest layout, output head stored."""
    t, v = TEXT, VISION
    shapes = {}
    text, tower = "language_model.model.", "vision_tower.vision_model."
    wide = t["num_attention_heads"] * t["head_dim"]
    narrow = t["num_key_value_heads"] * t["head_dim"]
    shapes[f"{text}embed_tokens.weight"] = (ROWS, 32)
    shapes[f"{text}norm.weight"] = (32,)
    for i in range(2):
        layer = f"{text}layers.{i}."
        for name in NORMS[kind]:
            shapes[f"{layer}{name}.weight"] = (32,)
        if kind == "gemma3_text":
            shapes |= {f"{layer}self_attn.{x}_norm.weight": (8,) for x in "qk"}
        for name, shape in (("q", (wide, 32)), ("k", (narrow, 32)),
                            ("v", (narrow, 32)), ("o", (32, wide))):  # fmt: skip
            shapes[f"{layer}self_attn.{name}_proj.weight"] = shape
        for name, shape in (("gate", (48, 32)), ("up", (48, 32)), ("down", (32, 48))):
            shapes[f"{layer}mlp.{name}_proj.weight"] = shape
        layer = f"{tower}encoder.layers.{i}."
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                     "self_attn.out_proj"):  # fmt: skip
            shapes[f"{layer}{name}.weight"] = (24, 24)
            shapes[f"{layer}{name}.bias"] = (24,)
        for name, shape in (("fc1", (40, 24)), ("fc2", (24, 40))):
            shapes[f"{layer}mlp.{name}.weight"] = shape
            shapes[f"{layer}mlp.{name}.bias"] = shape[:1]
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{name}.{part}": (24,) for part in ("weight", "bias")}
    size, patch = v["hidden_size"], v["patch_size"]
    shapes[f"{tower}embeddings.patch_embedding.weight"] = (size, 3, patch, patch)
    shapes[f"{tower}embeddings.patch_embedding.bias"] = (size,)
    shapes[f"{tower}embeddings.position_embedding.weight"] = (16, size)
    shapes |= {f"{tower}post_layernorm.{x}": (24,) for x in ("weight", "bias")}
    if kind == "gemma3_text":
        shapes["multi_modal_projector.mm_input_projection_weight"] = (24, 32)
        shapes["multi_modal_projector.mm_soft_emb_norm.weight"] = (24,)
    else:
        shapes["multi_modal_projector.linear.weight"] = (32, 24)
        shapes["multi_modal_projector.linear.bias"] = (32,)
    if action_size is not None:
        shapes["action_projector.linear.weight"] = (32, action_size)
        shapes["action_projector.linear.bias"] = (32,)
    rng = np.random.default_rng(seed)
    found = {k: (rng.normal(size=s) * 0.2).astype(dtype) for k, s in shapes.items()}
    found["language_model.lm_head.weight"] = found[f"{text}embed_tokens.weight"]
    return found


def new_layout(found: dict) -> dict:
    """The same tensors under the names of later releases of transformers."""
    renamed = {}
    for name, value in found.items():
        for old, new in (
            ("language_model.lm_head.", "lm_head."),
            ("language_model.model.", "model.language_model."),
            ("vision_tower.", "model.vision_tower."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
            ("action_projector.", "model.action_projector."),
        ):
            if name.startswith(old):
                renamed[new + name[len(old) :]] = value
                break
    return renamed


def short_layout(found: dict) -> dict:
    """The same as transformers 5 writes it: tied, and a shorter tower name."""
    return {
        name.replace("vision_tower.vision_model.", "vision_tower."): value
        for name, value in found.items()
        if "lm_head" not in name
    }


def write_folder(path, found, config, tokenizer=None, shards=1):
    """A Hugging Face folder; more than one shard gets an index."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.model").write_bytes(tokenizer or sentencepiece_model())
    if shards == 1:
        save_file(found, path / "model.safetensors")
        return path
    where = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(found.items())[i::shards])
        save_file(part, path / name)
        where |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def big_vision_tree(found: dict, kind="gemma") -> dict:
    """The same parameters as big_vision holds them, by flat key."""
    text, tower = "language_model.model.", "vision_tower.vision_model."
    each = lambda pattern: np.stack([found[pattern.format(i)] for i in range(2)])
    layer, block = text + "layers.{}.", tower + "encoder.layers.{}."
    q = each(layer + "self_attn.q_proj.weight").reshape(2, 4, 8, 32)
    key, value = (
        each(layer + f"self_attn.{x}_proj.weight").reshape(2, 1, 8, 32) for x in "kv"
    )
    out = each(layer + "self_attn.o_proj.weight").reshape(2, 32, 4, 8)
    gate, up = (each(layer + f"mlp.{x}_proj.weight") for x in ("gate", "up"))
    tree = {
        "llm/embedder/input_embedding": found[text + "embed_tokens.weight"][:PIECES],
        "llm/final_norm/scale": found[text + "norm.weight"],
        "llm/layers/attn/q_einsum/w": np.einsum("lnhd->lndh", q),
        "llm/layers/attn/kv_einsum/w": np.einsum("plkhd->lpkdh", [key, value]),
        "llm/layers/attn/attn_vec_einsum/w": np.einsum("ldnh->lnhd", out),
        "llm/layers/mlp/gating_einsum": np.einsum("plfd->lpdf", [gate, up]),
        "llm/layers/mlp/linear": np.einsum(
            "ldf->lfd", each(layer + "mlp.down_proj.weight")
        ),
    }
    ours = {
        "gemma": ("pre_attention", "pre_ffw"),
        "gemma2": ("pre_attention", "post_attention", "pre_ffw", "post_ffw"),
    }
    ours["gemma3_text"] = ours["gemma2"]
    for mine, theirs in zip(ours[kind], NORMS[kind]):
        tree[f"llm/layers/{mine}_norm/scale"] = each(f"{layer}{theirs}.weight")
    image = tower + "embeddings."
    tree |= {
        "img/embedding/kernel": np.einsum(
            "dcxy->xycd", found[image + "patch_embedding.weight"]
        ),
        "img/embedding/bias": found[image + "patch_embedding.bias"],
        "img/pos_embedding": found[image + "position_embedding.weight"][None],
        "img/Transformer/encoder_norm/scale": found[tower + "post_layernorm.weight"],
        "img/Transformer/encoder_norm/bias": found[tower + "post_layernorm.bias"],
    }
    projector = "multi_modal_projector."
    if kind == "gemma3_text":
        for name in ("query", "key"):
            scale = each(f"{layer}self_attn.{name[0]}_norm.weight")
            tree[f"llm/layers/attn/{name}_norm/scale"] = scale
        tree["img/soft_norm/scale"] = found[projector + "mm_soft_emb_norm.weight"]
        tree["img/head/kernel"] = found[projector + "mm_input_projection_weight"]
    else:
        tree["img/head/kernel"] = found[projector + "linear.weight"].T
        tree["img/head/bias"] = found[projector + "linear.bias"]
    mine = "img/Transformer/encoderblock/"
    for i in range(2):
        for ours_, theirs in (("scale", "weight"), ("bias", "bias")):
            tree[f"{mine}LayerNorm_{i}/{ours_}"] = each(
                f"{block}layer_norm{i + 1}.{theirs}"
            )
        kernel = each(f"{block}mlp.fc{i + 1}.weight")
        tree[f"{mine}MlpBlock_0/Dense_{i}/kernel"] = kernel.transpose(0, 2, 1)
        tree[f"{mine}MlpBlock_0/Dense_{i}/bias"] = each(f"{block}mlp.fc{i + 1}.bias")
    attention = f"{mine}MultiHeadDotProductAttention_0/"
    for name in ("query", "key", "value"):
        theirs = f"{block}self_attn.{name[0]}_proj."
        kernel = each(theirs + "weight").reshape(2, 3, 8, 24)
        tree[f"{attention}{name}/kernel"] = np.einsum("lnhd->ldnh", kernel)
        tree[f"{attention}{name}/bias"] = each(theirs + "bias").reshape(2, 3, 8)
    kernel = each(f"{block}self_attn.out_proj.weight").reshape(2, 24, 3, 8)
    tree[f"{attention}out/kernel"] = np.einsum("ldnh->lnhd", kernel)
    tree[f"{attention}out/bias"] = each(f"{block}self_attn.out_proj.bias")
    if "action_projector.linear.weight" in found:
        tree["action/kernel"] = found["action_projector.linear.weight"].T
        tree["action/bias"] = found["action_projector.linear.bias"]
    return {k: np.ascontiguousarray(value) for k, value in tree.items()}


def write_npz(path, tree, prefix="params/", compressed=False):
    """An npz as big_vision saves it: bfloat16 as two bytes of no type."""
    stored = {
        prefix + k: value.view("V2") if value.dtype == BF16 else value
        for k, value in tree.items()
    }
    (np.savez_compressed if compressed else np.savez)(path, **stored)
    return path
