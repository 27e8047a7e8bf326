"""The cube arm through `mujoco.Renderer`: same calls as `cube_render.py`, on the host.

As `host_render.py` for the board: OpenGL of the host, numpy arrays, the same MJCF
model as the physics dressed in a look, the reference for the JAX renderer.
"""

import mujoco
import numpy as np

from swm_jax.envs.scene import COLOUR_OF_BLOCK
from swm_jax.worlds.board.host_render import open_renderer
from swm_jax.worlds.cube import geometry as geometry
from swm_jax.worlds.cube.looks import CubeLook
from swm_jax.worlds.cube.model import HAND_DOFS, cube_mjcf
from swm_jax.worlds.cube.scene import CubeScene

_ARM = ("left", "right", "palm", "arm_visual")


class CubeHostRenderer:
    """An open OpenGL context for one image size, number of cubes and look.

    Use it as a context manager, or call `close`.

    Args:
      height, width: rows and columns of the image.
      cubes: how many the scenes hold.
      look: colours, light and transparency; the default look if None.
    """

    def __init__(
        self, height: int, width: int, cubes: int = 4, look: CubeLook | None = None
    ):
        look = look or CubeLook()
        self._cube_rgb = np.asarray(look.cube_rgb)
        self._model = _dressed_model(look, height, width, cubes)
        self._data = mujoco.MjData(self._model)
        self._renderer = open_renderer(self._model, height, width)
        self._geom_label = np.full(self._model.ngeom + 1, -1, np.int32)
        names = {"table_visual": 0, **dict.fromkeys(_ARM, 1)}
        names |= {f"cube{slot}": 2 + slot for slot in range(cubes)}
        for name, label in names.items():
            self._geom_label[self._model.geom(name).id] = label

    def render(self, scene: CubeScene) -> np.ndarray:
        """uint8[..., height, width, 3] of scenes with any leading axes."""
        self._renderer.disable_segmentation_rendering()
        return self._each(scene, self._renderer.render)

    def segment(self, scene: CubeScene) -> np.ndarray:
        """int32[..., height, width]: -1 background, 0 table, 1 gripper, 2 + slot."""
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
        images = []
        leading = scene.batch_shape
        for index in np.ndindex(leading):
            for slot, block in enumerate(np.asarray(scene.block_id)[index]):
                rgb = self._cube_rgb[COLOUR_OF_BLOCK[block]]
                self._model.geom(f"cube{slot}").rgba[:3] = rgb
            self._data.qpos[:HAND_DOFS] = np.asarray(scene.gripper)[index]
            pose = np.asarray(scene.block_pose)[index]
            self._data.qpos[HAND_DOFS:] = pose.reshape(-1)
            mujoco.mj_forward(self._model, self._data)
            self._renderer.update_scene(self._data, camera="front_pixels")
            images.append(draw().copy())
        return np.stack(images).reshape(*leading, *images[0].shape)


def render(
    scene: CubeScene,
    height: int,
    width: int,
    *,
    supersample: int = 1,
    look: CubeLook | None = None,
) -> np.ndarray:
    """As `swm_jax.worlds.cube.render.render`, drawn by MuJoCo."""
    k, cubes = supersample, scene.block_id.shape[-1]
    with CubeHostRenderer(height * k, width * k, cubes, look) as renderer:
        image = renderer.render(scene)
    if k == 1:
        return image
    image = image.reshape(*scene.batch_shape, height, k, width, k, 3)
    return (image.mean((-4, -2)) + 0.5).astype(np.uint8)


def _dressed_model(look: CubeLook, height: int, width: int, cubes: int):
    """The physics model with a look's colours, light and camera."""
    spec = mujoco.MjSpec.from_string(cube_mjcf(cubes=cubes))
    spec.visual.global_.offheight, spec.visual.global_.offwidth = height, width
    spec.visual.quality.offsamples = 0  # one sample at the pixel's centre
    sky = spec.textures[0]
    sky.rgb1, sky.rgb2 = look.background_rgb, look.background_rgb
    spec.geom("table_visual").rgba = (*look.table_rgb, 1.0)
    for name in _ARM:
        pad = name in ("left", "right")
        rgb, alpha = (
            (look.pad_rgb, look.pad_alpha) if pad else (look.arm_rgb, look.arm_alpha)
        )
        spec.geom(name).rgba = (*rgb, alpha)
    for slot in range(cubes):
        spec.geom(f"cube{slot}").rgba = (1.0, 1.0, 1.0, 1.0)
    sun = spec.light("sun")
    sun.dir, sun.ambient, sun.diffuse = (
        look.light_direction,
        look.ambient_rgb,
        look.diffuse_rgb,
    )
    camera = spec.camera("front_pixels")
    camera.pos = np.add(geometry.CAMERA_POSITION, look.camera_offset)
    return spec.compile()
