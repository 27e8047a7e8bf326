"""The board through `mujoco.Renderer`: same calls as `render.py`, on the host.

OpenGL on the CPU or GPU of the host (set the environment variable `MUJOCO_GL` to
`egl`, `osmesa` or `glfw` before Python starts), arrays in numpy. It draws the
same MJCF model as the physics, dressed in a `Look`, and is the reference against
which the JAX renderer is tested. Opening an OpenGL context costs more than a frame:
keep a `HostRenderer` for many of them.
"""

import os

import mujoco
import numpy as np

from swm_jax.envs.scene import BLOCK_NAMES, COLOURS
from swm_jax.worlds.board import geometry as geometry
from swm_jax.worlds.board.looks import Look
from swm_jax.worlds.board.model import board_mjcf
from swm_jax.worlds.board.scene import SLOT_SHAPES, Scene


class HostRenderer:
    """An open OpenGL context for one image size and one look.

    Use it as a context manager, or call `close`.

    Args:
      height: rows of the image.
      width: columns of the image; the 16:9 view is squeezed into it.
      supersample: k renders k times as many rows and columns and averages.
      look: colours, light and camera offset; the default look if None.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        supersample: int = 1,
        look: Look | None = None,
    ):
        self._size = height, width, supersample
        self._block_rgb = np.asarray((look or Look()).block_rgb)
        self._model = _dressed_model(
            look or Look(), height * supersample, width * supersample
        )
        self._data = mujoco.MjData(self._model)
        self._renderer = open_renderer(
            self._model, height * supersample, width * supersample
        )
        self._geom_label = np.full(self._model.ngeom + 1, -1, np.int32)
        self._geom_label[self._model.geom("board_visual").id] = 0
        self._geom_label[self._model.geom("peg_visual").id] = 1
        for slot in range(len(SLOT_SHAPES)):
            self._geom_label[self._model.geom(f"block{slot}_visual").id] = 2 + slot

    def render(self, scene: Scene) -> np.ndarray:
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

    def segment(self, scene: Scene) -> np.ndarray:
        """int32[..., height, width]: -1 background, 0 board, 1 peg, 2 + slot.

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
        """Gives the OpenGL context back."""
        self._renderer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _each(self, scene, draw):
        pose, block_id, peg = (
            np.asarray(x) for x in (scene.block_pose, scene.block_id, scene.peg)
        )
        leading = peg.shape[:-1]
        images = []
        for index in np.ndindex(leading):
            self._place(pose[index], block_id[index], peg[index])
            self._renderer.update_scene(self._data, camera="front")
            images.append(draw().copy())
        return np.stack(images).reshape(*leading, *images[0].shape)

    def _place(self, pose, block_id, peg):
        for slot, block in enumerate(block_id):
            colour, shape = BLOCK_NAMES[block].split()
            if shape != SLOT_SHAPES[slot]:
                raise ValueError(
                    f"slot {slot} holds a {BLOCK_NAMES[block]}, expected a "
                    f"{SLOT_SHAPES[slot]}: the MJCF model has fixed shapes"
                )
            rgb = self._block_rgb[COLOURS.index(colour)]
            self._model.geom(f"block{slot}_visual").rgba[:3] = rgb
            for axis, value in zip(("x", "y", "yaw"), pose[slot]):
                self._data.joint(f"block{slot}_{axis}").qpos[:] = value
        for axis, value in zip("xy", peg):
            self._data.joint(f"peg_{axis}").qpos[:] = value
        mujoco.mj_forward(self._model, self._data)


def open_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """MuJoCo's renderer.

    Raises:
      RuntimeError: the host has no OpenGL context; says what to set.
    """
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # each OpenGL binding raises its own kind
        raise RuntimeError(
            f"no OpenGL context ({error}); MUJOCO_GL is "
            f"{os.environ.get('MUJOCO_GL')!r}, expected egl or osmesa on a host "
            "without a display, set before Python starts"
        ) from error


def render(
    scene: Scene,
    height: int,
    width: int,
    *,
    supersample: int = 1,
    look: Look | None = None,
) -> np.ndarray:
    """As `swm_jax.worlds.board.render.render`, drawn by MuJoCo."""
    with HostRenderer(height, width, supersample=supersample, look=look) as renderer:
        return renderer.render(scene)


def segment(
    scene: Scene, height: int, width: int, *, look: Look | None = None
) -> np.ndarray:
    """As `swm_jax.worlds.board.render.segment`, drawn by MuJoCo."""
    with HostRenderer(height, width, look=look) as renderer:
        return renderer.segment(scene)


def _dressed_model(look: Look, height: int, width: int) -> mujoco.MjModel:
    """The physics model with a look's colours, light and camera."""
    spec = mujoco.MjSpec.from_string(board_mjcf())
    spec.visual.global_.offheight, spec.visual.global_.offwidth = height, width
    spec.visual.quality.offsamples = 0  # one sample at the pixel's centre
    sky = spec.textures[0]
    sky.rgb1, sky.rgb2 = look.background_rgb, look.background_rgb
    spec.geom("board_visual").rgba[:3] = look.board_rgb
    spec.geom("peg_visual").rgba[:3] = look.peg_rgb
    sun = spec.light("sun")
    sun.dir, sun.ambient, sun.diffuse = (
        look.light_direction,
        look.ambient_rgb,
        look.diffuse_rgb,
    )
    spec.camera("front").pos = np.add(geometry.CAMERA_POSITION, look.camera_offset)
    return spec.compile()
