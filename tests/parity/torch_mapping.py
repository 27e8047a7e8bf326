"""`transformers`' state dict as our parameter tree, for these tests only.

A linear layer of PyTorch stores [out, in], big_vision [in, out] with heads on axes of
their own and all layers stacked in front.
"""

import torch

from swm_jax.models import ModelConfig

_SIGLIP = "img/Transformer/encoderblock"
_ATTENTION = f"{_SIGLIP}/MultiHeadDotProductAttention_0"


def to_tree(state: dict[str, torch.Tensor], c: ModelConfig) -> dict[str, torch.Tensor]:
    """Our leaves by path, from a `state_dict()` of PaliGemma or Gemma 3.

    Raises:
      KeyError: a key is missing.
      ValueError: keys are left over.
    """
    state = dict(state)
    if "lm_head.weight" in state:  # tied
        state.pop("lm_head.weight")
    vision, text = "model.vision_tower.", "model.language_model."
    tower, decoder = f"{vision}encoder.layers.{{}}.", f"{text}layers.{{}}."
    tree = {}

    def put(path, key, shape=None, order=None):
        """One leaf: transposed linear weights reshaped to `shape`."""
        x = state.pop(key)
        tree[path] = x if order is None else x.permute(order)
        if shape is not None:
            tree[path] = tree[path].reshape(shape)

    def stack(path, prefix, keys, depth, shape=None, transpose=False):
        """A leaf of all layers; several keys are stacked behind the depth axis."""
        layers = []
        for i in range(depth):
            parts = [state.pop(prefix.format(i) + key) for key in keys]
            parts = [x.T if transpose else x for x in parts]
            parts = [x if shape is None else x.reshape(shape) for x in parts]
            layers.append(parts[0] if len(parts) == 1 else torch.stack(parts))
        tree[path] = torch.stack(layers)

    put(
        "img/embedding/kernel",
        f"{vision}embeddings.patch_embedding.weight",
        order=(2, 3, 1, 0),
    )
    put("img/embedding/bias", f"{vision}embeddings.patch_embedding.bias")
    put(
        "img/pos_embedding",
        f"{vision}embeddings.position_embedding.weight",
        (1, c.patches, c.vision_width),
    )
    projector = "model.multi_modal_projector."
    if c.backbone == "gemma3":
        put("img/head/kernel", f"{projector}mm_input_projection_weight")
        put("img/soft_norm/scale", f"{projector}mm_soft_emb_norm.weight")
    else:
        put("img/head/kernel", f"{projector}linear.weight", order=(1, 0))
        put("img/head/bias", f"{projector}linear.bias")
    norm = {"scale": "weight", "bias": "bias"}
    for ours, theirs in norm.items():
        put(f"img/Transformer/encoder_norm/{ours}", f"{vision}post_layernorm.{theirs}")
        for i in (0, 1):
            stack(
                f"{_SIGLIP}/LayerNorm_{i}/{ours}",
                tower,
                [f"layer_norm{i + 1}.{theirs}"],
                c.vision_depth,
            )
    heads, head = c.vision_heads, c.vision_width // c.vision_heads
    for name in ("query", "key", "value"):
        key = f"self_attn.{name[0]}_proj"
        stack(
            f"{_ATTENTION}/{name}/kernel",
            tower,
            [f"{key}.weight"],
            c.vision_depth,
            (c.vision_width, heads, head),
            transpose=True,
        )
        stack(
            f"{_ATTENTION}/{name}/bias",
            tower,
            [f"{key}.bias"],
            c.vision_depth,
            (heads, head),
        )
    stack(
        f"{_ATTENTION}/out/kernel",
        tower,
        ["self_attn.out_proj.weight"],
        c.vision_depth,
        (heads, head, c.vision_width),
        transpose=True,
    )
    stack(f"{_ATTENTION}/out/bias", tower, ["self_attn.out_proj.bias"], c.vision_depth)
    for i in (0, 1):
        dense = f"{_SIGLIP}/MlpBlock_0/Dense_{i}"
        stack(
            f"{dense}/kernel",
            tower,
            [f"mlp.fc{i + 1}.weight"],
            c.vision_depth,
            transpose=True,
        )
        stack(f"{dense}/bias", tower, [f"mlp.fc{i + 1}.bias"], c.vision_depth)

    put("llm/embedder/input_embedding", f"{text}embed_tokens.weight")
    put("llm/final_norm/scale", f"{text}norm.weight")
    # Linear weights [N x H, D] -> [N, D, H], and o_proj [D, N x H] -> [N, H, D].
    put_heads = lambda path, keys, n: stack(
        path, decoder, keys, c.depth, (n, c.head_dim, c.width)
    )
    put_heads("llm/layers/attn/q_einsum/w", ["self_attn.q_proj.weight"], c.heads)
    put_heads(
        "llm/layers/attn/kv_einsum/w",
        ["self_attn.k_proj.weight", "self_attn.v_proj.weight"],
        c.kv_heads,
    )
    for name in ("q_einsum", "kv_einsum"):
        path = f"llm/layers/attn/{name}/w"
        tree[path] = tree[path].transpose(-1, -2)
    stack(
        "llm/layers/attn/attn_vec_einsum/w",
        decoder,
        ["self_attn.o_proj.weight"],
        c.depth,
        (c.heads, c.head_dim, c.width),
        transpose=True,
    )
    stack(
        "llm/layers/mlp/gating_einsum",
        decoder,
        ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
        c.depth,
        transpose=True,
    )
    stack(
        "llm/layers/mlp/linear",
        decoder,
        ["mlp.down_proj.weight"],
        c.depth,
        transpose=True,
    )
    # Gemma 1's post_attention_layernorm stands before the MLP; Gemma 2's does not.
    norms = {"pre_attention_norm": "input", "pre_ffw_norm": "post_attention"}
    if c.post_norms:
        norms["pre_ffw_norm"] = "pre_feedforward"
        norms["post_attention_norm"] = "post_attention"
        norms["post_ffw_norm"] = "post_feedforward"
    for ours, theirs in norms.items():
        stack(
            f"llm/layers/{ours}/scale", decoder, [f"{theirs}_layernorm.weight"], c.depth
        )
    if c.backbone == "gemma3":
        for name in ("query", "key"):
            stack(
                f"llm/layers/attn/{name}_norm/scale",
                decoder,
                [f"self_attn.{name[0]}_norm.weight"],
                c.depth,
            )
    if state:
        raise ValueError(f"left over: {', '.join(sorted(state))}")
    return tree


def from_tree(
    tree: dict[str, torch.Tensor], like: dict[str, torch.Tensor], c: ModelConfig
) -> dict[str, torch.Tensor]:
    """The way back: a state dict shaped `like` another one.

    `to_tree` only moves numbers, so running it on their indices says where each goes.
    """
    like = {k: v for k, v in like.items() if k != "lm_head.weight"}
    sizes = [v.numel() for v in like.values()]
    places = torch.arange(sum(sizes)).split(sizes)
    places = {k: p.reshape(v.shape) for (k, v), p in zip(like.items(), places)}
    moved = to_tree(places, c)
    flat = torch.full((sum(sizes),), torch.nan)
    for path, place in moved.items():
        flat[place.flatten()] = tree[path].flatten()
    assert not flat.isnan().any(), "a number of the state dict has no source"
    state = {k: flat[p] for k, p in places.items()}
    return {
        **state,
        "lm_head.weight": state["model.language_model.embed_tokens.weight"],
    }
