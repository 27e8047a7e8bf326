"""Base class of renderers on the host by `mujoco.Renderer`.

OpenGL on the CPU or GPU of the host (set the environment variable `MUJOCO_GL` to `egl`,
`osmesa` or `glfw` before Python starts), arrays in numpy. A world applies a look to its
MJCF model and sets the model's pose from a scene; the images are the reference for
tests of its JAX renderer. Opening an OpenGL context takes longer than rendering a
frame: reuse renderers.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any

import mujoco
import numpy as np

from swm_jax.envs.opengl import no_opengl
from swm_jax.envs.scene import AnyScene


class HostRenderer(abc.ABC):
    """An open OpenGL context for one image size and one look.

    Use it as a context manager, or call `close`.

    Args:
      height, width: rows and columns of the image.
      supersample: k renders k times as many rows and columns and averages.
      look: colours, light and camera offset; the default look if None.
      **contents: further arguments of the world's model.

    Attributes:
      camera: its name in the model.
      default_look: makes the default look.
    """

    camera: str
    default_look: Callable[[], Any]

    def __init__(
        self,
        height: int,
        width: int,
        *,
        supersample: int = 1,
        look: Any = None,
        **contents: Any,
    ):
        self._size = height, width, supersample
        self._look = look or self.default_look()
        self._contents = contents
        spec = self.dressed(self._look, height, width)
        light(spec, self._look)
        drawn = height * supersample, width * supersample
        spec.visual.global_.offheight, spec.visual.global_.offwidth = drawn
        spec.visual.quality.offsamples = 0  # one sample at the pixel's centre
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._renderer = open_renderer(self._model, *drawn)
        self._geom_label = np.full(self._model.ngeom + 1, -1, np.int32)
        for name, label in self.labels().items():
            self._geom_label[self._model.geom(name).id] = label

    @abc.abstractmethod
    def dressed(self, look: Any, height: int, width: int) -> mujoco.MjSpec:
        """The physics model with a look's colours and camera."""

    @abc.abstractmethod
    def labels(self) -> Mapping[str, int]:
        """Labels of `segment` by name of geom; others are -1."""

    @abc.abstractmethod
    def place(self, scene: Any) -> None:
        """Writes the poses of one scene to `self._model` and `self._data`."""

    @classmethod
    def picture(
        cls, scene: AnyScene, height: int, width: int, **options: Any
    ) -> np.ndarray:
        """As `ray_caster.Renderer.render`, drawn by a renderer opened for it."""
        with cls(height, width, **options) as renderer:
            return renderer.render(scene)

    def render(self, scene: AnyScene) -> np.ndarray:
        """uint8[..., height, width, 3] of scenes with any leading axes."""
        height, width, k = self._size
        self._renderer.disable_segmentation_rendering()

        def draw():
            image = self._renderer.render()
            if k == 1:
                return image
            blocks = image.reshape(height, k, width, k, 3).mean((1, 3))
            return (blocks + 0.5).astype(np.uint8)

        return self._each(scene, draw)

    def segment(self, scene: AnyScene) -> np.ndarray:
        """int32[..., height, width], labels of what each pixel shows.

        Raises:
          ValueError: the renderer supersamples; labels have no average.
        """
        if self._size[2] != 1:
            raise ValueError(
                f"segment needs supersample 1, this renderer has {self._size[2]}"
            )
        self._renderer.enable_segmentation_rendering()
        return self._each(
            scene, lambda: self._geom_label[self._renderer.render()[..., 0]]
        )

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._renderer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _each(self, scene: AnyScene, draw: Callable[[], np.ndarray]) -> np.ndarray:
        leading, images = scene.batch_shape, []
        for index in np.ndindex(leading):
            one = {name: np.asarray(x)[index] for name, x in vars(scene).items()}
            self.place(scene.replace(**one))
            mujoco.mj_forward(self._model, self._data)
            self._renderer.update_scene(self._data, camera=self.camera)
            images.append(draw().copy())
        return np.stack(images).reshape(*leading, *images[0].shape)


def open_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """MuJoCo's renderer.

    Raises:
      RuntimeError: no OpenGL context; the message names the variable to set.
    """
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # each OpenGL binding raises its own kind
        raise no_opengl(error) from error


def light(spec: mujoco.MjSpec, look) -> None:
    """Background and light of a look."""
    sky = spec.textures[0]
    sky.rgb1, sky.rgb2 = look.background_rgb, look.background_rgb
    sun = spec.light("sun")
    sun.dir, sun.ambient, sun.diffuse = (
        look.light_direction,
        look.ambient_rgb,
        look.diffuse_rgb,
    )
