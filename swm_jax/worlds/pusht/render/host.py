"""Push-T through `mujoco.Renderer`: same calls as `render.py`, on the host."""

import mujoco
import numpy as np

from swm_jax.envs import host_renderer
from swm_jax.worlds.pusht import geometry
from swm_jax.worlds.pusht.model import pusht_mjcf
from swm_jax.worlds.pusht.render.device import GOAL, PEG, TABLE, T, view
from swm_jax.worlds.pusht.render.looks import Look
from swm_jax.worlds.pusht.scene import Scene

_LABELS = {
    "table_visual": TABLE,
    "peg_visual": PEG,
    "bar_visual": T,
    "stem_visual": T,
    "goal_bar": GOAL,
    "goal_stem": GOAL,
}


class HostRenderer(host_renderer.HostRenderer):
    """An open OpenGL context for one image size and one look.

    Args:
      height: rows of the image.
      width: columns of the image.
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
        spec = _dressed(look or Look())
        spec.camera("top").fovy = view(height, width)[0]
        super().__init__(spec, "top", _LABELS, height, width, supersample)

    def place(self, scene: Scene) -> None:
        for axis, value in zip(("x", "y", "yaw"), scene.block_pose[0]):
            self._data.joint(f"T_{axis}").qpos[:] = value
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
    """As `swm_jax.worlds.pusht.render.device.render`, drawn by MuJoCo."""
    with HostRenderer(height, width, supersample=supersample, look=look) as renderer:
        return renderer.render(scene)


def _dressed(look: Look) -> mujoco.MjSpec:
    """The physics model with a look's colours, light and camera."""
    spec = mujoco.MjSpec.from_string(pusht_mjcf())
    host_renderer.light(spec, look)
    colours = {PEG: look.peg_rgb, T: look.t_rgb, GOAL: look.goal_rgb}
    colours[TABLE] = look.table_rgb
    for name, label in _LABELS.items():
        spec.geom(name).rgba[:3] = colours[label]
    middle = (geometry.SIDE / 2, geometry.SIDE / 2, geometry.CAMERA_HEIGHT)
    spec.camera("top").pos = np.add(middle, look.camera_offset)
    return spec
