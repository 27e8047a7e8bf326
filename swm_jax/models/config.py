"""Model configs: sizes and constants of the published and our own variants.

`paligemma_3b_*` is PaliGemma's published architecture (SigLIP So400m/14 and Gemma 2B),
`paligemma2_*` PaliGemma 2's (the same tower and Gemma 2 2B, 9B or 27B), at 224, 448
and 896 px, `gemma3_4b` Gemma 3's; `tiny` and `small` are PaliGemma with other numbers.
Source: "PaliGemma: A versatile 3B VLM for transfer", "PaliGemma 2: A Family of
Versatile VLMs for Transfer" and "Gemma 3 Technical Report".
"""

import dataclasses
import math
from typing import Any

from swm_jax.choices import known
from swm_jax.models.layout import PositionRule

LAYOUTS = ("branched", "block", "full")
# Least values of numbers; others are sizes, from 1 on.
_LEAST = {
    **dict.fromkeys(("query_width", "window", "max_horizon", "objects"), 0),
    **dict.fromkeys(("eos_id", "bos_id", "newline_id"), -1),
    **dict.fromkeys(("attention_softcap", "final_softcap"), 0.0),
    **dict.fromkeys(("rope_base", "rope_scale"), 1e-9),
    **dict.fromkeys(("action_init_std", "action_bias_std", "action_scale"), 0.0),
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Static config of a model; hashable.

    Attributes:
      variant: name of the preset.
      backbone: image tower and decoder, see `backbones.registry`.
      image_size, patch_size: pixels per side; images of other sizes are resized.
      resize: "bilinear", or "bicubic" with Pillow's rounding, as in the image processor
        of the published checkpoints.
      vision_width, vision_depth, vision_mlp, vision_heads: the image tower.
      width, depth, mlp, heads, kv_heads, head_dim: the decoder.
      query_width: queries are multiplied by query_width^-0.5; 0 means head_dim.
      attention_softcap, final_softcap: Gemma 2 squashes attention logits and the
        vocabulary's logits x to cap * tanh(x / cap); 0 leaves them as they are.
      post_norms: Gemma 2 also normalises the outputs of attention and MLP before they
        are added to the residual stream.
      pool: Gemma 3 averages pool x pool patches into one image token.
      window, global_every: Gemma 3's local layers attend to the last `window`
        positions; every `global_every`-th layer is global.
      rope_base, rope_scale: RoPE base and position divisor of global layers; local
        layers, and all layers of Gemma 1 and 2, have 10,000 and 1.
      causal_text: in the `full` layout only image tokens attend bidirectionally, as in
        Gemma 3; False: the whole prompt up to the newline does, as in PaliGemma.
      vocab_size: rows of the tied embedding, at least the tokenizer's pieces.
      tokenizer: name or path for `Tokenizer.load`.
      eos_id, bos_id, newline_id: special tokens; the pad id is `PAD_TOKEN` always.
      layout: "branched", "block" or "full", see `layout`.
      max_question_tokens: T_max, longest question (positions depend on it).
      max_answer_tokens: longest answer, eos included.
      max_horizon: longest action chunk.
      action_size: A, width of one action.
      action_scale: factor on raw actions before the projector; 1 in the published
        model. The decoder's first RMSNorm discards magnitudes, so a small model learns
        sooner when a typical action has a norm near 1.
      action_init_std, action_bias_std: initial projector kernel and bias.
      objects: K, objects with tokens of their own, the robot first, see `objects`; 0
        for none.
      object_axes: coordinates of an object's position, 2 on a plane.
      object_origin: metres, where those coordinates are 0.
      dtype: of activations and matrix products; parameters, norms, RoPE and
        softmax stay float32.
      scan: `lax.scan` over layers (compiles one layer; for deep models), or unrolled
        (faster for shallow ones; the last layer computes only tokens that are read).
      remat: "none", "dots" (save matrix products) or "full" (save layer inputs only).
    """

    variant: str
    image_size: int
    patch_size: int
    vision_width: int
    vision_depth: int
    vision_mlp: int
    vision_heads: int
    width: int
    depth: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    backbone: str = "paligemma"
    query_width: int = 0
    attention_softcap: float = 0.0
    final_softcap: float = 0.0
    post_norms: bool = False
    pool: int = 1
    window: int = 0
    global_every: int = 1
    rope_base: float = 10_000.0
    rope_scale: float = 1.0
    causal_text: bool = False
    resize: str = "bilinear"
    tokenizer: str = "tiny"
    eos_id: int = 1
    bos_id: int = 2
    newline_id: int = 4
    layout: str = "branched"
    max_question_tokens: int = 16
    max_answer_tokens: int = 4
    max_horizon: int = 16
    action_size: int = 2
    action_scale: float = 1.0
    action_init_std: float = 0.02
    action_bias_std: float = 0.0
    objects: int = 0
    object_axes: int = 2
    object_origin: tuple[float, ...] = (0.0, 0.0)
    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"

    def __post_init__(self):
        # A list in stored metadata: the config must be hashable.
        object.__setattr__(self, "object_origin", tuple(self.object_origin))
        self._check_numbers()
        # Imported here: the registry's modules import this file.
        from swm_jax.models.backbones.registry import BACKBONES

        known("backbone", self.backbone, BACKBONES)
        known("layout", self.layout, LAYOUTS)
        known("resize", self.resize, ("bilinear", "bicubic"))
        known("dtype", self.dtype, ("float32", "bfloat16"))
        known("remat", self.remat, ("none", "dots", "full"))
        for part, whole in (
            ("patch_size", "image_size"),
            ("vision_heads", "vision_width"),
            ("kv_heads", "heads"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole}={getattr(self, whole)} is not a multiple of "
                    f"{part}={getattr(self, part)}"
                )
        if self.objects:
            self._check_objects()
        if self.image_size // self.patch_size % self.pool:
            raise ValueError(
                f"{self.image_size // self.patch_size} patches per side are not a "
                f"multiple of pool={self.pool}"
            )

    def _check_numbers(self):
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), _LEAST.get(field.name, 1)
            if field.type in (bool, str) and not isinstance(value, field.type):
                raise ValueError(f"{field.name}={value!r}, expected {field.type}")
            if field.type not in (int, float):
                continue
            kinds = (int, float) if field.type is float else int
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"{field.name}={value!r}, expected a number")
            if not least <= value < math.inf:
                raise ValueError(f"{field.name}={value}, expected {least} or more")

    def _check_objects(self):
        if self.layout != "branched":
            raise ValueError(
                f"object tokens need layout='branched', got '{self.layout}'"
            )
        axes = self.object_axes
        if self.objects < 2 or self.action_size < axes:
            raise ValueError(
                "object tokens need objects beside the robot and actions that move it "
                f"along all coordinates, got objects={self.objects}, action_size="
                f"{self.action_size}, object_axes={axes}"
            )
        if len(self.object_origin) != axes:
            raise ValueError(
                f"object_origin={self.object_origin} has not object_axes={axes} "
                "coordinates"
            )

    @property
    def patches(self) -> int:
        """P, patches per image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def image_tokens(self) -> int:
        """I, image tokens: one per patch or square of patches, then the objects'."""
        return self.patches // self.pool**2 + self.objects

    @property
    def bidirectional_tokens(self) -> int | None:
        """Length of the bidirectional prefix of the `full` layout; None: to newline."""
        return self.image_tokens if self.causal_text else None

    @property
    def positions(self) -> PositionRule:
        """RoPE positions of the `branched` and `block` layouts."""
        return PositionRule(self.image_tokens, self.max_question_tokens)


_VARIANTS: dict[str, dict[str, Any]] = {
    # Trains on two CPU cores: 64 image tokens, 1.6 M parameters. 96 px with patches of
    # 12 px resolves the shapes of blocks at the token count of 64 px with patches of 8.
    "tiny": dict(
        image_size=96,
        patch_size=12,
        vision_width=128,
        vision_depth=4,
        vision_mlp=512,
        vision_heads=4,
        width=128,
        depth=4,
        mlp=384,
        heads=4,
        kv_heads=1,
        head_dim=32,
        vocab_size=512,
        action_scale=1 / 0.03,  # the planner's action limit on the board
        action_init_std=0.06,
        action_bias_std=0.06,
        scan=False,
    ),
    # For one accelerator: 196 image tokens, 72 M parameters.
    "small": dict(
        image_size=112,
        patch_size=8,
        vision_width=512,
        vision_depth=12,
        vision_mlp=2048,
        vision_heads=8,
        width=512,
        depth=12,
        mlp=2048,
        heads=8,
        kv_heads=1,
        head_dim=64,
        vocab_size=512,
        action_scale=1 / 0.03,
        action_init_std=0.03,
        action_bias_std=0.03,
    ),
}

_SO400M = dict(
    patch_size=14, vision_width=1152, vision_depth=27, vision_mlp=4304, vision_heads=16
)
_GEMMA_2B = dict(width=2048, depth=18, mlp=16_384, heads=8, kv_heads=1, head_dim=256)
_GEMMA2 = dict(attention_softcap=50.0, final_softcap=30.0, post_norms=True)
_GEMMA2_2B = dict(
    **_GEMMA2, width=2304, depth=26, mlp=9216, heads=8, kv_heads=4, head_dim=256
)
_GEMMA2_9B = dict(
    **_GEMMA2, width=3584, depth=42, mlp=14_336, heads=16, kv_heads=8, head_dim=256
)
_GEMMA2_27B = dict(
    **_GEMMA2,
    width=4608,
    depth=46,
    mlp=36_864,
    heads=32,
    kv_heads=16,
    head_dim=128,
    query_width=4608 // 32,  # this size alone scales by the width per head
)
_PALIGEMMA = dict(
    vocab_size=257_152,
    tokenizer="paligemma",
    newline_id=108,
    max_question_tokens=32,
    resize="bicubic",
    dtype="bfloat16",
    remat="full",
)
_VARIANTS |= {
    f"{name}_{size}": dict(image_size=size, **_SO400M, **decoder, **_PALIGEMMA)
    for name, decoder in {
        "paligemma_3b": _GEMMA_2B,
        "paligemma2_3b": _GEMMA2_2B,
        "paligemma2_10b": _GEMMA2_9B,
        "paligemma2_28b": _GEMMA2_27B,
    }.items()
    for size in (224, 448, 896)
}

_VARIANTS["gemma3_4b"] = dict(
    _PALIGEMMA,
    **_SO400M,
    backbone="gemma3",
    image_size=896,
    pool=4,
    width=2560,
    depth=34,
    mlp=10_240,
    heads=8,
    kv_heads=4,
    head_dim=256,
    post_norms=True,
    window=1024,
    global_every=6,
    rope_base=1_000_000.0,
    rope_scale=8.0,
    causal_text=True,
    vocab_size=262_144,
    tokenizer="gemma3",
    newline_id=107,
    resize="bilinear",
)

VARIANTS = tuple(_VARIANTS)


def get_config(variant: str, **overrides: Any) -> ModelConfig:
    """The config of a variant.

    Args:
      variant: one of `VARIANTS`.
      **overrides: fields of `ModelConfig` that differ from the preset.

    Raises:
      ValueError: unknown variant, field or choice (with the nearest known name),
        or sizes that do not fit together.
    """
    known("model variant", variant, VARIANTS)
    fields = [field.name for field in dataclasses.fields(ModelConfig)]
    for name in overrides:
        known("model config field", name, fields)
    return ModelConfig(**{"variant": variant, **_VARIANTS[variant], **overrides})
