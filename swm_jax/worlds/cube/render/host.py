"""The cube arm through `mujoco.Renderer`: same calls as `render.py`, on the host."""

import mujoco
import numpy as np

from swm_jax.envs import host_renderer
from swm_jax.envs.scene import COLOUR_OF_BLOCK
from swm_jax.worlds.cube import geometry as geometry
from swm_jax.worlds.cube.model import HAND_DOFS, cube_mjcf
from swm_jax.worlds.cube.render.looks import CubeLook
from swm_jax.worlds.cube.scene import CubeScene

_ARM = ("left", "right", "palm", "arm_visual")


class CubeHostRenderer(host_renderer.HostRenderer):
    """An open OpenGL context for one image size, number of cubes and look.

    Labels of `segment`: -1 background, 0 table, 1 gripper, 2 + slot.

    Args:
      height, width: rows and columns of the image.
      cubes: how many the scenes hold.
      supersample: k renders k times as many rows and columns and averages.
      look: colours, light and transparency; the default look if None.
    """

    def __init__(
        self,
        height: int,
        width: int,
        cubes: int = 4,
        *,
        supersample: int = 1,
        look: CubeLook | None = None,
    ):
        look = look or CubeLook()
        self._cube_rgb = np.asarray(look.cube_rgb)
        labels = {"table_visual": 0, **dict.fromkeys(_ARM, 1)}
        labels |= {f"cube{slot}": 2 + slot for slot in range(cubes)}
        spec = _dressed(look, cubes)
        super().__init__(spec, "front_pixels", labels, height, width, supersample)

    def place(self, scene: CubeScene) -> None:
        for slot, block in enumerate(scene.block_id):
            rgb = self._cube_rgb[COLOUR_OF_BLOCK[block]]
            self._model.geom(f"cube{slot}").rgba[:3] = rgb
        self._data.qpos[:HAND_DOFS] = scene.gripper
        self._data.qpos[HAND_DOFS:] = scene.block_pose.reshape(-1)


def render(
    scene: CubeScene,
    height: int,
    width: int,
    *,
    supersample: int = 1,
    look: CubeLook | None = None,
) -> np.ndarray:
    """As `swm_jax.worlds.cube.render.device.render`, drawn by MuJoCo."""
    cubes = scene.block_id.shape[-1]
    with CubeHostRenderer(
        height, width, cubes, supersample=supersample, look=look
    ) as renderer:
        return renderer.render(scene)


def _dressed(look: CubeLook, cubes: int) -> mujoco.MjSpec:
    """The physics model with a look's colours, light and camera."""
    spec = mujoco.MjSpec.from_string(cube_mjcf(cubes=cubes))
    host_renderer.light(spec, look)
    spec.geom("table_visual").rgba = (*look.table_rgb, 1.0)
    for name in _ARM:
        pad = name in ("left", "right")
        rgb, alpha = (
            (look.pad_rgb, look.pad_alpha) if pad else (look.arm_rgb, look.arm_alpha)
        )
        spec.geom(name).rgba = (*rgb, alpha)
    for slot in range(cubes):
        spec.geom(f"cube{slot}").rgba = (1.0, 1.0, 1.0, 1.0)
    camera = spec.camera("front_pixels")
    camera.pos = np.add(geometry.CAMERA_POSITION, look.camera_offset)
    return spec
