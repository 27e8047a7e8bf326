"""The towers against a slow float64 reading of the published architecture.

The reference knows no segments: it walks over one plain sequence, token by token,
with a dense table of who sees whom.
"""

import operator

import jax
import numpy as np
import pytest
from micro_models import (
    ANSWER,
    MICRO,
    QUERIES,
    QUESTION_LENGTHS,
    batch_of_queries,
    quick_jit,
)
from test_layout import is_padding, may_see, segment_tokens

from swm_jax.models import SemanticWorldModel, get_config

GELU = lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def rms_norm(x, scale):
    return x / np.sqrt(np.mean(x * x) + 1e-6) * (1 + scale)


def layer_norm(x, p):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["scale"] + p["bias"]


def rotate(x, position):
    half = len(x) // 2
    result = np.empty_like(x)
    for i in range(half):
        angle = position / 10_000 ** (2 * i / len(x))
        a, b = x[i], x[i + half]
        result[i] = a * np.cos(angle) - b * np.sin(angle)
        result[i + half] = b * np.cos(angle) + a * np.sin(angle)
    return result


def decode(params, x, positions, sees):
    """x [S, D] through all layers; sees[t] lists the tokens that t sees."""
    layers = params["layers"]
    depth, heads = layers["attn"]["q_einsum"]["w"].shape[:2]
    kv_heads = layers["attn"]["kv_einsum"]["w"].shape[2]
    for i in range(depth):
        p = jax.tree.map(operator.itemgetter(i), layers)
        attn, mlp = p["attn"], p["mlp"]
        y = [rms_norm(t, p["pre_attention_norm"]["scale"]) for t in x]
        out = x.copy()
        for n in range(heads):
            kv = n * kv_heads // heads
            wq, wo = attn["q_einsum"]["w"][n], attn["attn_vec_einsum"]["w"][n]
            wk, wv = attn["kv_einsum"]["w"][:, kv]
            keys = [rotate(t @ wk, position) for t, position in zip(y, positions)]
            for t, seen in enumerate(sees):
                query = rotate(y[t] @ wq, positions[t]) / np.sqrt(wq.shape[-1])
                weights = softmax(np.array([query @ keys[s] for s in seen]))
                out[t] += sum(w * (y[s] @ wv) for w, s in zip(weights, seen)) @ wo
        for t in range(len(out)):
            z = rms_norm(out[t], p["pre_ffw_norm"]["scale"])
            gate, up = z @ mlp["gating_einsum"][0], z @ mlp["gating_einsum"][1]
            out[t] += (GELU(gate) * up) @ mlp["linear"]
        x = out
    return np.stack([rms_norm(t, params["final_norm"]["scale"]) for t in x])


def see_image(params, image, patch):
    """Image tokens for the decoder from uint8 [h, w, 3]."""
    image = image / 127.5 - 1.0
    kernel = params["embedding"]["kernel"]
    x = []
    for row in range(0, image.shape[0], patch):
        for column in range(0, image.shape[1], patch):
            total = params["embedding"]["bias"].copy()
            for i in range(patch):
                for j in range(patch):
                    total += image[row + i, column + j] @ kernel[i, j]
            x.append(total)
    x = np.stack(x) + params["pos_embedding"][0]
    blocks = params["Transformer"]["encoderblock"]
    for layer in range(blocks["LayerNorm_0"]["scale"].shape[0]):
        p = jax.tree.map(operator.itemgetter(layer), blocks)
        attn, mlp = p["MultiHeadDotProductAttention_0"], p["MlpBlock_0"]
        y = np.stack([layer_norm(t, p["LayerNorm_0"]) for t in x])
        out = x + attn["out"]["bias"]
        for n in range(attn["query"]["bias"].shape[0]):
            query, key, value = (
                y @ attn[name]["kernel"][:, n] + attn[name]["bias"][n]
                for name in ("query", "key", "value")
            )
            for t in range(len(x)):
                weights = softmax(key @ query[t] / np.sqrt(key.shape[1]))
                seen = sum(w * v for w, v in zip(weights, value))
                out[t] += seen @ attn["out"]["kernel"][n]
        for t in range(len(x)):
            z = layer_norm(out[t], p["LayerNorm_1"])
            z = GELU(z @ mlp["Dense_0"]["kernel"] + mlp["Dense_0"]["bias"])
            out[t] += z @ mlp["Dense_1"]["kernel"] + mlp["Dense_1"]["bias"]
        x = out
    x = np.stack([layer_norm(t, params["Transformer"]["encoder_norm"]) for t in x])
    return x @ params["head"]["kernel"] + params["head"]["bias"], x


def embed(params, batch, token, layout_name, scale):
    """The decoder's input for a named token, but for image tokens."""
    table = params["llm"]["embedder"]["input_embedding"]
    root = np.sqrt(table.shape[1])
    if token[0] == "action":
        action = batch.actions[0, token[1]].astype(np.float64) * scale
        return (action @ params["action"]["kernel"] + params["action"]["bias"]) * root
    if token[0] == "question":
        owner = token[1]
        asked = owner if layout_name == "branched" else QUERIES[owner][0]
        return table[batch.question_tokens[0, asked, token[2]]] * root
    if token[0] == "bos":
        return table[2] * root
    answer = [4, *batch.answer_tokens[0, token[1]]]  # newline comes first
    return table[answer[token[2]]] * root


def position(token):
    if token[0] == "image":
        return token[1]
    if token[0] == "action":
        return 4 + 4 + token[1]
    if token[0] == "question":
        return 4 + token[2]
    return 4 + 4 + QUERIES[token[1]][1] + token[2]


@pytest.mark.parametrize("layout_name", ["branched", "block", "full"])
def test_logits_equal_a_slow_float64_forward(layout_name):
    config = get_config("tiny", layout=layout_name, **MICRO)
    model = SemanticWorldModel(config)
    params = quick_jit(model.init_params)(jax.random.key(3))
    # Fresh norms and biases are 0 or 1: shake them, or they would hide mistakes.
    rng = np.random.default_rng(4)
    shake = lambda p: np.float32(p + 0.1 * rng.normal(size=p.shape))
    params = jax.tree.map(shake, params)
    batch = batch_of_queries(5)
    outputs = quick_jit(model.apply)({"params": params}, batch)
    assert outputs.logits.shape == (1, len(QUERIES), ANSWER, 32)

    exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    image, features = see_image(exact["img"], batch.image[0], config.patch_size)
    np.testing.assert_allclose(outputs.patch_features[0], features, atol=2e-4)
    table = exact["llm"]["embedder"]["input_embedding"]

    def run(tokens, positions, see):
        x = np.stack(
            [
                image[t[1]]
                if t[0] == "image"
                else embed(exact, batch, t, layout_name, config.action_scale)
                for t in tokens
            ]
        )
        sees = [[j for j, s in enumerate(tokens) if see(t, s)] for t in tokens]
        return decode(exact["llm"], x, positions, sees) @ table.T

    if layout_name == "full":
        for query, (asked, horizon) in enumerate(QUERIES):
            tokens = [("image", i) for i in range(4)]
            tokens += [("action", t) for t in range(horizon)]
            tokens += [("bos",)]
            tokens += [("question", query, j) for j in range(QUESTION_LENGTHS[asked])]
            tokens += [("answer", query, m) for m in range(ANSWER)]
            newline = len(tokens) - ANSWER
            order = {token: i for i, token in enumerate(tokens)}
            see = lambda t, s: order[s] <= max(newline, order[t])  # noqa: B023
            logits = run(tokens, range(1, len(tokens) + 1), see)[-ANSWER:]
            np.testing.assert_allclose(outputs.logits[0, query], logits, atol=2e-4)
    else:
        tokens = segment_tokens(layout_name)
        tokens = [t for t in tokens if not is_padding(layout_name, t)]
        see = lambda t, s: may_see(layout_name, t, s)
        logits = run(tokens, [position(t) for t in tokens], see)
        expected = logits[-len(QUERIES) * ANSWER :].reshape(len(QUERIES), ANSWER, -1)
        np.testing.assert_allclose(outputs.logits[0], expected, atol=2e-4)
