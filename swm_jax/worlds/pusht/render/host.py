"""Renderer of Push-T on the host by `mujoco.Renderer`; functions as `device.py`."""

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
    """Renderer of the view from above; labels as of the device's `segment`."""

    camera = "top"
    default_look = Look

    def dressed(self, look: Look, height: int, width: int) -> mujoco.MjSpec:
        spec = mujoco.MjSpec.from_string(pusht_mjcf())
        colours = {PEG: look.peg_rgb, T: look.t_rgb, GOAL: look.goal_rgb}
        colours[TABLE] = look.table_rgb
        for name, label in _LABELS.items():
            spec.geom(name).rgba[:3] = colours[label]
        middle = (geometry.SIDE / 2, geometry.SIDE / 2, geometry.CAMERA_HEIGHT)
        camera = spec.camera("top")
        camera.pos = np.add(middle, look.camera_offset)
        camera.fovy = view(height, width)[0]
        return spec

    def labels(self) -> dict[str, int]:
        return _LABELS

    def place(self, scene: Scene) -> None:
        for axis, value in zip(("x", "y", "yaw"), scene.block_pose[0]):
            self._data.joint(f"T_{axis}").qpos[:] = value
        for axis, value in zip("xy", scene.peg):
            self._data.joint(f"peg_{axis}").qpos[:] = value


render = HostRenderer.picture
