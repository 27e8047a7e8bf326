"""The board through `mujoco.Renderer`: same calls as `render.py`, on the host."""

import mujoco
import numpy as np

from swm_jax.envs import host_renderer
from swm_jax.envs.scene import BLOCK_NAMES, COLOURS
from swm_jax.worlds.board import geometry as geometry
from swm_jax.worlds.board.model import board_mjcf
from swm_jax.worlds.board.render.looks import Look
from swm_jax.worlds.board.scene import SLOT_SHAPES, Scene


class HostRenderer(host_renderer.HostRenderer):
    """An open OpenGL context for one image size and one look.

    Labels of `segment`: -1 background, 0 board, 1 peg, 2 + slot.

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
        look = look or Look()
        self._block_rgb = np.asarray(look.block_rgb)
        labels = {"board_visual": 0, "peg_visual": 1}
        labels |= {f"block{slot}_visual": 2 + slot for slot in range(len(SLOT_SHAPES))}
        super().__init__(_dressed(look), "front", labels, height, width, supersample)

    def place(self, scene: Scene) -> None:
        for slot, block in enumerate(scene.block_id):
            colour, shape = BLOCK_NAMES[block].split()
            if shape != SLOT_SHAPES[slot]:
                raise ValueError(
                    f"slot {slot} holds a {BLOCK_NAMES[block]}, expected a "
                    f"{SLOT_SHAPES[slot]}: the MJCF model has fixed shapes"
                )
            rgb = self._block_rgb[COLOURS.index(colour)]
            self._model.geom(f"block{slot}_visual").rgba[:3] = rgb
            for axis, value in zip(("x", "y", "yaw"), scene.block_pose[slot]):
                self._data.joint(f"block{slot}_{axis}").qpos[:] = value
        for axis, value in zip("xy", scene.peg):
            self._data.joint(f"peg_{axis}").qpos[:] = value


def render(
    scene: Scene,
    height: int,
    width: int,
    *,
    supersample: int = 1,
    look: Look | None = None,
) -> np.ndarray:
    """As `swm_jax.worlds.board.render.device.render`, drawn by MuJoCo."""
    with HostRenderer(height, width, supersample=supersample, look=look) as renderer:
        return renderer.render(scene)


def segment(
    scene: Scene, height: int, width: int, *, look: Look | None = None
) -> np.ndarray:
    """As `swm_jax.worlds.board.render.device.segment`, drawn by MuJoCo."""
    with HostRenderer(height, width, look=look) as renderer:
        return renderer.segment(scene)


def _dressed(look: Look) -> mujoco.MjSpec:
    """The physics model with a look's colours, light and camera."""
    spec = mujoco.MjSpec.from_string(board_mjcf())
    host_renderer.light(spec, look)
    spec.geom("board_visual").rgba[:3] = look.board_rgb
    spec.geom("peg_visual").rgba[:3] = look.peg_rgb
    spec.camera("front").pos = np.add(geometry.CAMERA_POSITION, look.camera_offset)
    return spec
