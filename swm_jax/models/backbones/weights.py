"""Parameter declarations with named axes.

A `Weight` gives every axis a letter and lists the contracted ones. Initialisation, LoRA
factor shapes, Muon's matrix dimensions and default sharding
(`logical_axes.WEIGHT_AXES`) are derived from them:

    Weight((18, 8, 2048, 256), axes="LNDH", inputs="D")    # queries of Gemma 2B

Letters:
    L layers of a stack             S matrices side by side (keys and values)
    D width of the states           F hidden width of an MLP
    N heads                         K heads of keys and values
    H width of a head               V pieces of the vocabulary
    I, O input and output of a projection between towers

A weight without axes (norm, bias, position embedding, input and output layers) has no
LoRA factors and no default sharding, and is updated by AdamW where Muon updates the
matrices.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float

from swm_jax.arrays import Array

zeros, ones = nn.initializers.zeros, nn.initializers.ones
# Mode and distribution of `variance_scaling` by name.
_SCALINGS: dict[str, tuple[Any, Any]] = {
    "fan_in": ("fan_in", "truncated_normal"),
    "xavier": ("fan_avg", "uniform"),
}
_STACKED = "LS"  # batch axes: each index is a separate matrix


@dataclasses.dataclass(frozen=True)
class Weight:
    """Declaration of one parameter.

    Attributes:
      shape: of the array.
      axes: a letter per axis; "" for a parameter that is no matrix.
      inputs: letters of the contracted axes, in the array's order; "" for a parameter
        that is no matrix of a layer.
      init: "fan_in" (variance 1 / inputs, truncated normal), "xavier" (uniform, of
        inputs and outputs) or an initializer.
      decays: whether weight decay shrinks it; None: if it has inputs. Norms, biases
        and embeddings do not decay.
    """

    shape: tuple[int, ...]
    axes: str = ""
    inputs: str = ""
    init: str | Callable = "fan_in"
    decays: bool | None = None

    def __post_init__(self):
        if self.axes and len(self.axes) != len(self.shape):
            raise ValueError(f"axes {self.axes!r} do not fit the shape {self.shape}")
        if isinstance(self.init, str) and not self.inputs:
            raise ValueError(f"init={self.init!r} of {self.shape} needs inputs")

    @property
    def outputs(self) -> str:
        """Letters of the output axes: neither contracted nor stacked."""
        return "".join(a for a in self.axes if a not in self.inputs + _STACKED)

    @property
    def fan_in(self) -> int:
        """Product of the sizes of the contracted axes."""
        return math.prod(self.shape[i] for i in self.places(self.inputs))

    def places(self, letters: str) -> tuple[int, ...]:
        """Indices of the axes with these letters, in the array's order."""
        return tuple(i for i, axis in enumerate(self.axes) if axis in letters)

    @property
    def initializer(self) -> Callable:
        """Flax initializer, (key, shape, dtype) -> initial values."""
        if callable(self.init):
            return self.init
        # Stacked axes are batch axes: they do not count in the fan.
        axes = map(self.places, (self.inputs, self.outputs, _STACKED))
        return nn.initializers.variance_scaling(1.0, *_SCALINGS[self.init], *axes)

    @property
    def product(self) -> str:
        """The einsum of LoRA factors, a with the inputs and b with the outputs.

        For example "...Dr,...rNH->...NDH" for axes "LNDH" and inputs "D".
        """
        matrix = self.axes.lstrip(_STACKED)
        return f"...{self.inputs}r,...r{self.outputs}->...{matrix}"

    def factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of a and b."""
        size = dict(zip(self.axes, self.shape))
        stack, rows, columns = (
            tuple(size[a] for a in self.axes if a in letters)
            for letters in (_STACKED, self.inputs, self.outputs)
        )
        return (*stack, *rows, rank), (*stack, rank, *columns)


class Adapted(struct.PyTreeNode):
    """A weight with its LoRA adapter.

    Attributes:
      weight: W.
      a, b: the factors, already scaled by alpha / rank.
      product: einsum of a and b that gives W's axes.
    """

    weight: Float[Array, "..."]
    a: Float[Array, "..."]
    b: Float[Array, "..."]
    product: str = struct.field(pytree_node=False)

    def merged(self) -> Float[Array, "..."]:
        """W + a b."""
        return self.weight + jnp.einsum(self.product, self.a, self.b)


class Params(nn.Module):
    """Flax module that creates the parameters of a nested dict of `Weight`s.

    Called, it returns their values; a weight with an adapter in the collection `lora`
    as an `Adapted`, which `cast` merges.
    """

    weights: Any

    @nn.compact
    def __call__(self) -> dict:
        values = {}
        for name, weight in self.weights.items():
            if isinstance(weight, Weight):
                value = self.param(name, weight.initializer, weight.shape)
                if self.has_variable("lora", name):
                    pair = self.get_variable("lora", name)
                    value = Adapted(value, pair["a"], pair["b"], weight.product)
                values[name] = value
            else:
                values[name] = Params(weight, name=name)()
        return values


def cast(tree: Any, dtype: Any) -> Any:
    """Merges adapters (in the parameters' dtype), then casts the tree to `dtype`."""
    adapted = lambda x: isinstance(x, Adapted)
    plain = lambda x: x.merged() if adapted(x) else x
    return jax.tree.map(lambda x: plain(x).astype(dtype), tree, is_leaf=adapted)


def leaf_name(path: Any) -> str:
    """The path of a leaf of a tree, joined by "/": "llm/layers/attn/q_einsum/w"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by `leaf_name`."""
    return {leaf_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
