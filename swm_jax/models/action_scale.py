"""Actions as the model's input: normalisation of raw units, and the projector.

Data, planners and envs use raw units; a model may have been trained on normalised
actions, zero-padded to a larger width. The checkpoint's metadata holds the
normalisation under `actions`, one entry per domain:

    {"kind": "quantile", "low": [...], "high": [...]}    low and high become -1 and 1
    {"kind": "raw"}                                      unchanged

Axis: A numbers per action of the robot.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.models.backbones.weights import Weight

if TYPE_CHECKING:
    from swm_jax.models.config import ModelConfig

Kind = Literal["raw", "quantile"]
KINDS = get_args(Kind)
_FLAT = 1e-6  # dimensions of a smaller half range are constant and not scaled


class ActionScale(struct.PyTreeNode):
    """scaled = (raw - middle) / half, then zeros up to the model's width.

    Attributes:
      middle, half: float32[A].
      width: action width of the model, at least A.
    """

    middle: Float[Array, " A"]
    half: Float[Array, " A"]
    width: int = struct.field(pytree_node=False)

    def __call__(self, actions: Float[Array, "... A"]) -> Float[Array, "... width"]:
        """Normalised actions, zero-padded to `width`; numpy or JAX like the input.

        Raises:
          ValueError: actions of another width than A.
        """
        size = self.middle.shape[-1]
        if actions.shape[-1] != size:
            raise ValueError(
                f"actions have {actions.shape[-1]} numbers, expected {size}"
            )
        xp = np if isinstance(actions, np.ndarray) else jnp
        scaled = (actions - xp.asarray(self.middle)) / xp.asarray(self.half)
        wide = [(0, 0)] * (actions.ndim - 1) + [(0, self.width - size)]
        return xp.pad(scaled, wide).astype(actions.dtype)

    @classmethod
    def make(cls, entry: Mapping[str, Any], size: int, width: int) -> "ActionScale":
        """Builds the scale from one domain's entry in the metadata.

        Args:
          entry: see the module docstring.
          size: A.
          width: action width of the model.

        Raises:
          ValueError: an unknown kind, or sizes that do not fit.
        """
        kind = entry.get("kind", "raw")
        if kind not in KINDS:
            raise ValueError(f"unknown action scale '{kind}', known: {KINDS}")
        if size > width:
            raise ValueError(
                f"actions have {size} numbers, the model takes {width}: set "
                f"config.model.overrides.action_size={size} or more"
            )
        if kind == "raw":
            return cls(np.zeros(size, np.float32), np.ones(size, np.float32), width)
        low, high = (np.asarray(entry[k], np.float32) for k in ("low", "high"))
        if low.shape != (size,) or high.shape != (size,):
            raise ValueError(
                f"the action scale is for {low.shape[-1]} numbers, actions have {size}"
            )
        half = (high - low) / 2
        half = np.where(half < _FLAT, np.float32(1), half)
        return cls((high + low) / 2, half.astype(np.float32), width)


def action_weights(c: "ModelConfig") -> dict[str, Weight]:
    """Parameter declarations of the action projector, a linear layer A -> W."""
    kernel, bias = map(nn.initializers.normal, (c.action_init_std, c.action_bias_std))
    return {
        "kernel": Weight((c.action_size, c.width), init=kernel),
        "bias": Weight((c.width,), init=bias),
    }


def check_actions(c: "ModelConfig", actions: Float[Array, "... H A"]) -> None:
    """Raises a ValueError for actions that do not fit the model."""
    if actions.shape[-1] != c.action_size:
        raise ValueError(
            f"actions have width {actions.shape[-1]}, the model was made for "
            f"action_size={c.action_size}"
        )
    if actions.shape[-2] > c.max_horizon:
        raise ValueError(
            f"a chunk of {actions.shape[-2]} actions is longer than the model's "
            f"max_horizon={c.max_horizon}"
        )
