"""SigLIP vision transformer, with big_vision's parameter tree.

Axes: B images, P patches, D width, N heads, H head width. Depth is the leading axis
of every parameter under `Transformer/encoderblock`.
Source: "Sigmoid Loss for Language Image Pre-Training" and "PaliGemma": learned
positions, pre-norm blocks (LayerNorm eps 1e-6, tanh GELU), no pooling, and a linear
head to the decoder's width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.models.backbones.layers import layer_norm, run_layers
from swm_jax.models.backbones.logical_axes import constrain
from swm_jax.models.backbones.weights import Params, Weight, cast, ones, zeros
from swm_jax.models.config import ModelConfig


class ImageTower(nn.Module):
    """SigLIP encoder with a linear projection to the decoder's width."""

    config: ModelConfig

    def setup(self):
        weights = self.weights(self.config)
        self.embedding = Params(weights["embedding"])
        positions = weights["pos_embedding"]
        self.pos_embedding = self.param(
            "pos_embedding", positions.initializer, positions.shape
        )
        self.Transformer = Params(weights["Transformer"])
        self.head = Params(weights["head"])

    @staticmethod
    def weights(c: ModelConfig) -> dict[str, Any]:
        """Parameter declarations of the tower, as a tree of `Weight`s."""
        width, normal = c.vision_width, nn.initializers.normal
        kernel = Weight(
            (c.patch_size, c.patch_size, 3, width),
            init=nn.initializers.lecun_normal((0, 1, 2), 3),
            decays=True,  # it multiplies pixels
        )
        return {
            "embedding": {"kernel": kernel, "bias": Weight((width,), init=zeros)},
            "pos_embedding": Weight((1, c.patches, width), init=normal(width**-0.5)),
            "Transformer": {
                "encoderblock": _block_weights(c),
                "encoder_norm": _norm_weights((width,)),
            },
            "head": {
                "kernel": Weight((width, c.width), "IO", "I"),
                "bias": Weight((c.width,), init=zeros),
            },
        }

    def __call__(
        self, image: Float[Array, "B h w 3"]
    ) -> tuple[Float[Array, "B N W"], Float[Array, "B P D"]]:
        """Encodes preprocessed images, values in [-1, 1].

        Returns:
          Decoder inputs (width W of the decoder) and the patch features after the
          final norm.
        """
        c = self.config
        embedding, transformer = cast(self.embedding(), c.dtype), self.Transformer()
        # A convolution with stride = kernel size, written as a matrix product.
        patches = _to_patches(image, c.patch_size).astype(c.dtype)
        kernel = embedding["kernel"].reshape(-1, c.vision_width)
        x = patches @ kernel + embedding["bias"] + cast(self.pos_embedding, c.dtype)
        x = constrain(x, "batch")
        block = lambda params, x: _block(params, x, c.vision_heads)
        x = run_layers(block, transformer["encoderblock"], x, c)
        features = layer_norm(transformer["encoder_norm"], x)
        return self.project(features), features

    def project(self, features: Float[Array, "B P D"]) -> Float[Array, "B P W"]:
        """Projects patch features to decoder inputs."""
        head = cast(self.head(), features.dtype)
        return features @ head["kernel"] + head["bias"]


def _block(params, x: Float[Array, "B P D"], heads: int) -> Float[Array, "B P D"]:
    attention = cast(params["MultiHeadDotProductAttention_0"], x.dtype)
    mlp = cast(params["MlpBlock_0"], x.dtype)
    y = layer_norm(params["LayerNorm_0"], x)
    project = lambda p: jnp.einsum("bpd,dnh->bnph", y, p["kernel"])
    bias = lambda p: p["bias"][:, None, :]
    query, key, value = (
        constrain(project(attention[name]) + bias(attention[name]), "batch", "heads")
        for name in ("query", "key", "value")
    )
    query = query * (x.shape[-1] // heads) ** -0.5
    logits = jnp.einsum("bnqh,bnkh->bnqk", query, key).astype(jnp.float32)
    # Softmax in float32, its weights in the model's dtype, as in the decoder.
    weights = jax.nn.softmax(logits).astype(x.dtype)
    seen = jnp.einsum("bnqk,bnkh->bnqh", weights, value)
    out = attention["out"]
    x = x + jnp.einsum("bnqh,nhd->bqd", seen, out["kernel"]) + out["bias"]
    x = constrain(x, "batch")
    y = layer_norm(params["LayerNorm_1"], x)
    y = jax.nn.gelu(y @ mlp["Dense_0"]["kernel"] + mlp["Dense_0"]["bias"])
    y = constrain(y, "batch", None, "mlp")
    y = x + y @ mlp["Dense_1"]["kernel"] + mlp["Dense_1"]["bias"]
    return constrain(y, "batch")


def _to_patches(image: Float[Array, "B h w 3"], size: int) -> Float[Array, "B P X"]:
    """Cuts images into flattened patches, pixels in the order of a conv kernel."""
    batch, height, width, channels = image.shape
    rows, columns = height // size, width // size
    x = image.reshape(batch, rows, size, columns, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)  # [B, rows, columns, y, x, channel]
    return x.reshape(batch, rows * columns, size * size * channels)


def _norm_weights(shape: tuple[int, ...]) -> dict[str, Weight]:
    return {"scale": Weight(shape, init=ones), "bias": Weight(shape, init=zeros)}


def _block_weights(c: ModelConfig) -> dict[str, Any]:
    depth, width, mlp = c.vision_depth, c.vision_width, c.vision_mlp
    heads, head = c.vision_heads, c.vision_width // c.vision_heads
    tiny = nn.initializers.normal(1e-6)
    projection = {
        "kernel": Weight((depth, width, heads, head), "LDNH", "D", "xavier"),
        "bias": Weight((depth, heads, head), init=zeros),
    }
    return {
        "LayerNorm_0": _norm_weights((depth, width)),
        "LayerNorm_1": _norm_weights((depth, width)),
        "MultiHeadDotProductAttention_0": {
            "query": projection,
            "key": projection,
            "value": projection,
            "out": {
                "kernel": Weight((depth, heads, head, width), "LNHD", "NH", "xavier"),
                "bias": Weight((depth, width), init=zeros),
            },
        },
        "MlpBlock_0": {
            "Dense_0": {
                "kernel": Weight((depth, width, mlp), "LDF", "D", "xavier"),
                "bias": Weight((depth, mlp), init=tiny),
            },
            "Dense_1": {
                "kernel": Weight((depth, mlp, width), "LFD", "F", "xavier"),
                "bias": Weight((depth, width), init=tiny),
            },
        },
    }
