"""Renderer of cube scenes on the host by `mujoco.Renderer`; calls as in `device.py`."""

from typing import Any

import mujoco
import numpy as np

from swm_jax.envs import host_renderer
from swm_jax.envs.scene import COLOUR_OF_BLOCK
from swm_jax.worlds.cube import geometry
from swm_jax.worlds.cube.model import HAND_DOFS, cube_mjcf
from swm_jax.worlds.cube.render.looks import CubeLook
from swm_jax.worlds.cube.scene import CubeScene

_ARM = ("left", "right", "palm", "arm_visual")


class CubeHostRenderer(host_renderer.HostRenderer):
    """Renderer for scenes of `cubes` cubes, 4 by default.

    Labels of `segment`: -1 background, 0 table, 1 gripper, 2 + slot.
    """

    camera = "front_pixels"
    default_look = CubeLook

    @property
    def _cubes(self) -> int:
        return self._contents.get("cubes", 4)

    def dressed(self, look: CubeLook, height: int, width: int) -> mujoco.MjSpec:
        spec = mujoco.MjSpec.from_string(cube_mjcf(cubes=self._cubes))
        spec.geom("table_visual").rgba = (*look.table_rgb, 1.0)
        for name in _ARM:
            pad = name in ("left", "right")
            rgb = look.pad_rgb if pad else look.arm_rgb
            alpha = look.pad_alpha if pad else look.arm_alpha
            spec.geom(name).rgba = (*rgb, alpha)
        for slot in range(self._cubes):
            spec.geom(f"cube{slot}").rgba = (1.0, 1.0, 1.0, 1.0)
        camera = spec.camera("front_pixels")
        camera.pos = np.add(geometry.CAMERA_POSITION, look.camera_offset)
        return spec

    def labels(self) -> dict[str, int]:
        slots = {f"cube{slot}": 2 + slot for slot in range(self._cubes)}
        return {"table_visual": 0, **dict.fromkeys(_ARM, 1), **slots}

    def place(self, scene: CubeScene) -> None:
        for slot, block in enumerate(scene.block_id):
            rgb = np.asarray(self._look.cube_rgb)[COLOUR_OF_BLOCK[block]]
            self._model.geom(f"cube{slot}").rgba[:3] = rgb
        self._data.qpos[:HAND_DOFS] = scene.gripper
        self._data.qpos[HAND_DOFS:] = scene.block_pose.reshape(-1)


def render(scene: CubeScene, height: int, width: int, **options: Any) -> np.ndarray:
    """As `device.render`, drawn by MuJoCo."""
    cubes = scene.block_id.shape[-1]
    return CubeHostRenderer.picture(scene, height, width, cubes=cubes, **options)
