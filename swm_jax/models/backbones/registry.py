"""Backbones by name, and the declarations (`Weight`) of their parameters.

A backbone's modules are an image tower (`img` in the tree of parameters) and a
decoder (`llm`), each with a static method `weights(config)` that returns its tree of
`Weight`s.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from swm_jax.models.backbones import gemma, gemma3, siglip
from swm_jax.models.backbones.weights import Weight, zeros
from swm_jax.models.config import get_config


class Backbone(NamedTuple):
    """The two modules of a vision-language model.

    Attributes:
      tower: module from images to decoder inputs.
      decoder: module that runs layouts of segments.
    """

    tower: Any
    decoder: Any


BACKBONES: dict[str, Backbone] = {
    "paligemma": Backbone(siglip.ImageTower, gemma.Decoder),
    "gemma3": Backbone(gemma3.ImageTower, gemma3.Decoder),
}


def declared(name: str, shape: tuple[int, ...]) -> Weight:
    """The declaration of a parameter, found by its name in the tree.

    Args:
      name: for example "llm/layers/attn/q_einsum/w".
      shape: of the parameter.

    Returns:
      The declaration with this shape; without axes for names outside all backbones,
      such as adapters and pre-training heads.
    """
    found = _by_name().get(name, Weight((), init=zeros))
    return dataclasses.replace(found, shape=tuple(shape))


def decays(name: str, shape: tuple[int, ...]) -> bool:
    """Whether weight decay shrinks a parameter by default: matrices, as declared.

    Parameters outside all backbones (adapters, the action projector, pre-training
    heads, those of other trainables) decay if they have two axes or more.
    """
    found = _by_name().get(name)
    if found is None:
        return len(shape) > 1
    return bool(found.inputs) if found.decays is None else found.decays


@functools.cache
def _by_name() -> dict[str, Weight]:
    """Declarations of all backbones' parameters by name, with placeholder shapes."""
    found: dict[str, Weight] = {}
    for backbone in BACKBONES.values():
        config = get_config("tiny", post_norms=True)
        tree = {
            "img": backbone.tower.weights(config),
            "llm": backbone.decoder.weights(config),
        }
        flat: dict[str, Any] = flatten_dict(tree, sep="/")
        # Backbones share names; their declarations must agree.
        for name, new in flat.items():
            other = found.setdefault(name, new)
            if (other.axes, other.inputs) != (new.axes, new.inputs):
                raise ValueError(
                    f"two backbones declare {name}: with axes {other.axes!r} and "
                    f"{new.axes!r}"
                )
    return found
