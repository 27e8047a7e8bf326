"""Shared parts of the JAX renderers: looks, layers and windows, lighting, pixels.

A layer is an array with the rows and columns of the image. On CPUs an object is drawn
into a window around its projection, on accelerators into the whole layer, which avoids
gathers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Float, Int, Shaped, UInt8

from swm_jax.arrays import Array
from swm_jax.envs.scene import AnyScene, Triple, grey

_CHUNK = 64  # scenes rendered at once on an accelerator


class Look(struct.PyTreeNode):
    """Light and camera of a rendered scene; worlds add colours of their objects.

    Every field is a leaf of a pytree, so a jitted renderer takes any look without
    recompilation, and `jax.vmap` over a batch of looks is domain randomisation. The
    light is one directional lamp plus ambient light without shadows or highlights,
    `colour * min(1, ambient + diffuse * max(0, -normal . light))`, as in OpenGL's fixed
    pipeline in `mujoco.Renderer`.

    Attributes:
      light_direction: the way the light travels, of any length.
      ambient_rgb: light that reaches every face.
      diffuse_rgb: light of the directional lamp at normal incidence.
      camera_offset: metres added to the camera's position; its direction stays.
    """

    light_direction: Triple = (-0.3, 0.2, -0.933)
    ambient_rgb: Triple = grey(0.45)
    diffuse_rgb: Triple = grey(0.55)
    camera_offset: Triple = (0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Renderer:
    """Renderer of images and labels, from a world's functions for one scene.

    Attributes:
      look: makes the default look.
      draw: (scene, windowed, *, look, h, w, k) -> uint8[h, w, 3], means of k x k
        samples.
      label: (scene, windowed, *, look, h, w) -> int32[h, w], labels at the centres of
        the pixels.
    """

    look: Callable[[], Any]
    draw: Callable[..., Array]
    label: Callable[..., Array]

    def render(
        self,
        scene: AnyScene,
        height: int,
        width: int,
        *,
        supersample: int = 1,
        look: Any = None,
    ) -> UInt8[Array, "... h w 3"]:
        """Images of scenes.

        Args:
          scene: any leading axes.
          height: rows of the image.
          width: columns of the image; pixels need not be square.
          supersample: k averages k x k rays in each pixel (anti-aliasing).
          look: colours, light and camera offset; the default look if None.

        Returns:
          uint8[..., height, width, 3], red, green, blue.
        """
        check_size(height, width, supersample)
        return _render(self, scene, look or self.look(), height, width, supersample)

    def segment(
        self, scene: AnyScene, height: int, width: int, *, look: Any = None
    ) -> Int[Array, "... h w"]:
        """Labels of pixels' centres, int32[..., height, width]; background is -1."""
        check_size(height, width)
        return _segment(self, scene, look or self.look(), height, width)


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _render(renderer, scene, look, height, width, supersample):
    draw = functools.partial(renderer.draw, look=look, h=height, w=width, k=supersample)
    return over_scenes(draw, scene)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _segment(renderer, scene, look, height, width):
    label = functools.partial(renderer.label, look=look, h=height, w=width)
    return over_scenes(label, scene)


def check_size(height: Any, width: Any, supersample: Any = 1) -> None:
    """Raises ValueError unless all are positive ints."""
    for name, value in (
        ("height", height),
        ("width", width),
        ("supersample", supersample),
    ):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} is {value!r}, expected a positive int")


def over_scenes(draw: Callable[..., Array], scene: AnyScene) -> Shaped[Array, "..."]:
    """Maps `draw(one scene, windowed)` over all leading axes.

    On CPUs sequentially, which keeps the working set in cache; on accelerators in
    batched chunks.
    """
    leading = scene.batch_shape
    one_by_one = functools.partial(draw, windowed=True)
    whole = functools.partial(draw, windowed=False)
    if not leading:
        return lax.platform_dependent(scene, cpu=one_by_one, default=whole)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(leading) :]), scene)
    images = lax.platform_dependent(
        flat,
        cpu=lambda s: lax.map(one_by_one, s),
        default=lambda s: lax.map(whole, s, batch_size=_CHUNK),
    )
    return images.reshape(*leading, *images.shape[1:])


def window_of(layer: Array, start: tuple, shape: tuple[int, ...]) -> Array:
    """The window of a layer whose first row and column are `start`."""
    # vmap would turn a slice of the whole layer into a gather.
    return layer if layer.shape == shape else lax.dynamic_slice(layer, start, shape)


def with_window(layer: Array, patch: Array, start: tuple) -> Array:
    """The layer with a window replaced."""
    if layer.shape == patch.shape:
        return patch
    return lax.dynamic_update_slice(layer, patch, start)


def camera_position(look: Look, position: Triple | np.ndarray) -> Float[Array, "3"]:
    """Position of the camera with a look's offset, metres."""
    return jnp.asarray(look.camera_offset, jnp.float32) + np.asarray(
        position, np.float32
    )


def lambert(normal: Float[Array, "... 3"], look: Any) -> Float[Array, "... 3"]:
    """Lambertian reflection of faces, per colour channel."""
    towards = -jnp.asarray(look.light_direction, jnp.float32)
    towards /= jnp.linalg.norm(towards)
    cosine = jnp.maximum((normal * towards).sum(-1, keepdims=True), 0.0)
    ambient = jnp.asarray(look.ambient_rgb, jnp.float32)
    diffuse = jnp.asarray(look.diffuse_rgb, jnp.float32)
    return jnp.minimum(ambient + diffuse * cosine, 1.0)


def to_pixels(
    colours: Float[Array, "hk wk 3"], h: int, w: int, k: int
) -> UInt8[Array, "h w 3"]:
    """Pixels as means of k x k samples with values in 0..1."""
    if k > 1:
        colours = colours.reshape(h, k, w, k, 3).mean((1, 3))
    # Explicit rounding: XLA's casts on CPUs round or truncate depending on fusion.
    return jnp.round(colours * 255.0).astype(jnp.uint8)
