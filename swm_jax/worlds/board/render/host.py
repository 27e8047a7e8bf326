"""Renderer of the board on the host by `mujoco.Renderer`; functions as `device.py`."""

import mujoco
import numpy as np

from swm_jax.envs import host_renderer
from swm_jax.envs.scene import BLOCK_NAMES, COLOURS
from swm_jax.worlds.board import geometry
from swm_jax.worlds.board.model import board_mjcf
from swm_jax.worlds.board.render.looks import Look
from swm_jax.worlds.board.scene import SLOT_SHAPES, Scene


class HostRenderer(host_renderer.HostRenderer):
    """The 16:9 view, squeezed into the image.

    Labels of `segment`: -1 background, 0 board, 1 peg, 2 + slot.
    """

    camera = "front"
    default_look = Look

    def dressed(self, look: Look, height: int, width: int) -> mujoco.MjSpec:
        spec = mujoco.MjSpec.from_string(board_mjcf())
        spec.geom("board_visual").rgba[:3] = look.board_rgb
        spec.geom("peg_visual").rgba[:3] = look.peg_rgb
        spec.camera("front").pos = np.add(geometry.CAMERA_POSITION, look.camera_offset)
        return spec

    def labels(self) -> dict[str, int]:
        blocks = {f"block{slot}_visual": 2 + slot for slot in range(len(SLOT_SHAPES))}
        return {"board_visual": 0, "peg_visual": 1, **blocks}

    def place(self, scene: Scene) -> None:
        for slot, block in enumerate(scene.block_id):
            colour, shape = BLOCK_NAMES[block].split()
            if shape != SLOT_SHAPES[slot]:
                raise ValueError(
                    f"slot {slot} holds a {BLOCK_NAMES[block]}, expected a "
                    f"{SLOT_SHAPES[slot]}: the MJCF model has fixed shapes"
                )
            rgb = np.asarray(self._look.block_rgb)[COLOURS.index(colour)]
            self._model.geom(f"block{slot}_visual").rgba[:3] = rgb
            for axis, value in zip(("x", "y", "yaw"), scene.block_pose[slot]):
                self._data.joint(f"block{slot}_{axis}").qpos[:] = value
        for axis, value in zip("xy", scene.peg):
            self._data.joint(f"peg_{axis}").qpos[:] = value


render = HostRenderer.picture
