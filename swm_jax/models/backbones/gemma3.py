"""Gemma 3: a decoder of local and global layers, and SigLIP with pooled tokens.

Differences from Gemma 2: queries and keys are normalised per head (RMSNorm) before
RoPE, instead of soft-capped logits. Five of six layers are local, with a sliding window
and RoPE base 10,000; the sixth is global, with a larger base and positions divided by
`rope_scale`. Patch features are average-pooled and normalised before a projection
without bias.
Source: "Gemma 3 Technical Report".
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.models.backbones import gemma, siglip
from swm_jax.models.backbones.attention import within
from swm_jax.models.backbones.layers import rms_norm, rope, rope_table
from swm_jax.models.backbones.weights import Params, Weight, cast, zeros
from swm_jax.models.config import ModelConfig
from swm_jax.models.layout import Layout


class Decoder(gemma.Decoder):
    """Gemma 3 decoder over a layout of segments."""

    @staticmethod
    def weights(c: ModelConfig) -> dict[str, Any]:
        """Gemma 2's parameters and the scales of the query and key norms."""
        tree = gemma.Decoder.weights(c)
        norm = {"scale": Weight((c.depth, c.head_dim), init=zeros)}
        tree["layers"]["attn"] |= {"query_norm": norm, "key_norm": norm}
        return tree

    def views(self, layout: Layout) -> tuple[gemma.View, ...]:
        """Views of local (0) and global (1) layers."""
        c = self.config
        tables = lambda *rope: {
            name: rope_table(segment.positions, c.head_dim, *rope)
            for name, segment in layout.items()
        }
        near = {}
        if c.window:
            near = {name: within(each, c.window) for name, each in layout.items()}
        # Masks of ones for global layers: `lax.scan` needs one structure for all.
        return (
            gemma.View(tables(), near),
            gemma.View(
                tables(c.rope_base, c.rope_scale), jax.tree.map(jnp.ones_like, near)
            ),
        )

    def kinds(self) -> tuple[int, ...]:
        """View index per layer: 1 for global layers, 0 for local ones."""
        c = self.config
        return tuple(int(i % c.global_every == 0) for i in range(1, c.depth + 1))

    @staticmethod
    def turn(attn: dict, name: str, x: Float[Array, "... N H"], table):
        """Normalises queries or keys per head, then applies RoPE."""
        return rope(rms_norm(attn[f"{name}_norm"]["scale"], x), table)


class ImageTower(siglip.ImageTower):
    """SigLIP with one image token per square of `pool` x `pool` patches."""

    def setup(self):
        super().setup()
        self.soft_norm = Params(self.weights(self.config)["soft_norm"])

    @staticmethod
    def weights(c: ModelConfig) -> dict[str, Any]:
        """SigLIP's parameters; a norm in place of the head's bias."""
        tree = siglip.ImageTower.weights(c)
        del tree["head"]["bias"]
        tree["soft_norm"] = {"scale": Weight((c.vision_width,), init=zeros)}
        return tree

    def project(self, features: Float[Array, "B P D"]) -> Float[Array, "B I W"]:
        """Pools, normalises and projects patch features to decoder inputs."""
        c, batch = self.config, features.shape[0]
        side = c.image_size // c.patch_size // c.pool
        squares = features.reshape(batch, side, c.pool, side, c.pool, -1)
        pooled = squares.astype(jnp.float32).mean((2, 4)).reshape(batch, side**2, -1)
        normed = rms_norm(self.soft_norm()["scale"], pooled).astype(c.dtype)
        return normed @ cast(self.head()["kernel"], c.dtype)
