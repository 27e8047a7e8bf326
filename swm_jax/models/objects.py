"""Object tokens: where each object is now, and where the actions bring it.

Linear read-outs of the patch features say which object a patch shows and where that
object is. An object's state is the mean of the patches' states under the softmax, over
patches, of the object's own logit. From it come three inputs of the decoder:

    image    one token per object behind the image tokens, to which a name in a
             question is bound
    action   what the robot meets: where it is after each action, relative to every
             object (the running sum of the actions, added to its position)
    future   per chunk and horizon one token per object, which attends to image,
             actions up to the horizon and the other objects; answers attend to them,
             and training reads each object's displacement off them

Actions begin with a displacement of the robot in metres. An object's state has
`object_axes` coordinates (decimetres from `object_origin`), then cosine and sine of its
yaw. Object 0 is the robot.

Axes: B images, P patches, D width of the tower, K objects, V numbers of a state,
A coordinates, H actions, W decoder width.
"""

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from swm_jax.arrays import Array
from swm_jax.models import layout as layouts
from swm_jax.models.backbones.weights import Weight, zeros

if TYPE_CHECKING:
    from swm_jax.models.config import ModelConfig

UNIT = 0.1  # metres per unit of a state's coordinates
TURN = 2  # cosine and sine of the yaw
_WAVES = np.pi * 2.0 ** np.arange(-1, 3)  # wavelengths of 40, 20, 10 and 5 cm
_REACHES = (0.03, 0.06, 0.15)  # metres, widths of the path's distance features


class ObjectStates(struct.PyTreeNode):
    """Read-outs of the patches.

    Attributes:
      owner: float32[B, P, 1 + K], logits of what a patch shows; 0 is no object.
      patch: float32[B, P, V], state of the object that a patch shows.
      state: float32[B, K, V], state of each object.
    """

    owner: Float[Array, "B P _"]
    patch: Float[Array, "B P V"]
    state: Float[Array, "B K V"]


def state_size(c: "ModelConfig") -> int:
    """V, numbers of an object's state."""
    return c.object_axes + TURN


def object_weights(c: "ModelConfig") -> dict[str, Any]:
    """Parameter declarations of read-outs and tokens."""
    small = nn.initializers.normal
    features, path = _widths(c)
    return {
        # A zero read-out changes nothing in a tower that was trained before.
        "owner": _linear(c.vision_width, 1 + c.objects),
        "state": _linear(c.vision_width, state_size(c)),
        "kernel": Weight((features, c.width), init=small(0.3)),
        "embedding": Weight((c.objects, c.width), init=small(1.0)),
        "path": Weight((path, c.width), init=small(0.5)),
        "way": Weight((c.object_axes, c.width), init=small(0.3)),
        "future": Weight((c.width,), init=small(1.0)),
    }


def _widths(c: "ModelConfig") -> tuple[int, int]:
    """Numbers that the projections to tokens of objects and of the path read."""
    features = state_size(c) + c.object_axes * (1 + 4 * len(_WAVES))
    return features, (c.objects - 1) * len(_REACHES) * (1 + c.object_axes)


def image_flops(c: "ModelConfig") -> int:
    """FLOPs of the read-outs and the tokens of one image's objects."""
    if not c.objects:
        return 0
    states = state_size(c)
    read = c.vision_width * (1 + c.objects + states) + c.objects * states
    return 2 * c.patches * read + 2 * c.objects * _widths(c)[0] * c.width


def path_flops(c: "ModelConfig", chunks: int, actions: int, horizons: int) -> int:
    """FLOPs of what the tokens of actions and futures see of one image's paths."""
    if not c.objects:
        return 0
    along = actions * _widths(c)[1] * c.width
    reached = horizons * c.object_axes * (actions + 1 + c.objects * c.width)
    return 2 * chunks * (along + reached)


def _linear(inputs: int, outputs: int) -> dict[str, Weight]:
    kernel = Weight((inputs, outputs), init=zeros)
    return {"kernel": kernel, "bias": Weight((outputs,), init=zeros)}


def read_states(params: Any, features: Float[Array, "B P D"]) -> ObjectStates:
    """Owners of patches and states of objects, in float32."""
    features = features.astype(jnp.float32)
    read = lambda p: features @ p["kernel"] + p["bias"]
    owner, patch = read(params["owner"]), read(params["state"])
    share = jax.nn.softmax(owner[..., 1:], 1)  # over patches, of each object
    return ObjectStates(owner, patch, jnp.einsum("bpk,bpv->bkv", share, patch))


def object_tokens(
    params: Any, state: Float[Array, "B K V"], axes: int
) -> Float[Array, "B K W"]:
    """Tokens of the objects in the image.

    Args:
      params: of `object_weights`.
      state: of the objects, the robot first.
      axes: A, number of coordinates.
    """
    place = state[..., :axes]
    from_robot = place - place[:, :1]
    parts = [state, from_robot]
    for x in (place, from_robot):
        wave = (x[..., None] * _WAVES).reshape(*x.shape[:-1], -1)
        parts += [jnp.sin(wave), jnp.cos(wave)]
    return jnp.concatenate(parts, -1) @ params["kernel"] + params["embedding"]


def robot_path(
    actions: Float[Array, "B *N H _"], axes: int
) -> Float[Array, "B *N steps A"]:
    """Displacement of the robot after 0, 1, .. H actions, metres."""
    path = jnp.cumsum(actions[..., :axes].astype(jnp.float32), -2)
    return jnp.concatenate([jnp.zeros_like(path[..., :1, :]), path], -2)


def path_tokens(
    params: Any, state: Float[Array, "B K V"], path: Float[Array, "B *N H A"]
) -> Float[Array, "B *N H W"]:
    """What the tokens of actions see of the path relative to each object.

    Args:
      params: of `object_weights`.
      state: of the objects, the robot first.
      path: displacement of the robot after each action, metres.
    """
    off = _from_objects(state, path)[..., 1:, :]
    parts = []
    for reach in _REACHES:
        near = jnp.exp(-0.5 * (off**2).sum(-1, keepdims=True) / reach**2)
        parts += [near, near * off / reach]
    joined = jnp.concatenate(parts, -1)
    return joined.reshape(*path.shape[:-1], -1) @ params["path"]


def future_tokens(
    params: Any,
    tokens: Float[Array, "B K W"],
    state: Float[Array, "B K V"],
    path: Float[Array, "B *N steps A"],
    horizons: Int[Array, "... G"],
) -> Float[Array, "B *N G K W"]:
    """Inputs of the future tokens: the object's, and the robot's way to it.

    Args:
      params: of `object_weights`.
      tokens: from `object_tokens`.
      state: of the objects, the robot first.
      path: from `robot_path`, H + 1 steps.
      horizons: broadcastable to [B, *N, G].
    """
    # A product with one-hot rows broadcasts over chunks; a gather would not.
    reached = jax.nn.one_hot(horizons, path.shape[-2]) @ path
    way = _from_objects(state, reached) / UNIT
    lead = (1,) * (way.ndim - 3)
    tokens = tokens.reshape(len(tokens), *lead, *tokens.shape[1:])
    return tokens + way @ params["way"] + params["future"]


def future_of(
    params: Any,
    c: "ModelConfig",
    axes: str,
    image: Float[Array, "B I W"],
    objects: ObjectStates,
    actions: Float[Array, "B *N H _"],
    horizons: Int[Array, "... G"],
) -> layouts.Segment:
    """The segment of the future tokens.

    Args:
      params: of `object_weights`.
      c: the model's config.
      axes: leading axes of the segment.
      image: tokens, the objects' last.
      objects: read-outs of the patches.
      actions: raw.
      horizons: broadcastable to [B, *N, G].
    """
    path, tokens = robot_path(actions, c.object_axes), image[:, -c.objects :]
    tokens = future_tokens(params, tokens, objects.state, path, horizons)
    past = layouts.past_actions(c.positions, axes[:-1], horizons, actions.shape[-2])
    tokens = tokens.astype(c.dtype)
    return layouts.future_segment(c.positions, axes + "o", tokens, horizons, past)


def see_future(
    c: "ModelConfig", axes: str, horizons: Int[Array, "..."]
) -> tuple[layouts.Sight, ...]:
    """Attention of answers to the future tokens; empty in a model without them."""
    if not c.objects:
        return ()
    return (layouts.see_future(c.positions, axes, horizons, c.objects),)


def _from_objects(state, path):
    """[B, *N, H, K, A], metres: the moved robot as seen from every object."""
    place = UNIT * state[..., : path.shape[-1]]
    start = place[:, :1] - place
    start = start.reshape(len(start), *[1] * (path.ndim - 2), *start.shape[1:])
    return start + path[..., None, :]
