"""Looks of Push-T: colours, light and camera offset; a pytree that needs no compiling.

The default has gym_pusht's colours.
"""

from flax import struct

from swm_jax.envs.scene import Triple, grey
from swm_jax.worlds.pusht import geometry


class Look(struct.PyTreeNode):
    """How a scene appears. Colours are red, green, blue in [0, 1].

    Attributes:
      table_rgb: colour of the table.
      background_rgb: colour of whatever surrounds the table; not lit.
      goal_rgb: colour of the goal, a sheet on the table.
      t_rgb: colour of the T.
      peg_rgb: colour of the peg.
      light_direction: the way the light travels, of any length.
      ambient_rgb: light that reaches every face.
      diffuse_rgb: light of the directional lamp at normal incidence.
      camera_offset: metres added to the camera's position; the height changes nothing.
    """

    table_rgb: Triple = geometry.TABLE_RGB
    background_rgb: Triple = geometry.BACKGROUND_RGB
    goal_rgb: Triple = geometry.GOAL_RGB
    t_rgb: Triple = geometry.T_RGB
    peg_rgb: Triple = geometry.PEG_RGB
    light_direction: Triple = geometry.LIGHT_DIRECTION
    ambient_rgb: Triple = grey(geometry.LIGHT_AMBIENT)
    diffuse_rgb: Triple = grey(geometry.LIGHT_DIFFUSE)
    camera_offset: Triple = (0.0, 0.0, 0.0)


LOOKS: dict[str, Look] = {
    "default": Look(),
    "unseen_table": Look(table_rgb=(0.75, 0.62, 0.45)),
    "unseen_colours": Look(t_rgb=(0.75, 0.3, 0.25), peg_rgb=(0.2, 0.2, 0.2)),
    "camera_shift": Look(camera_offset=(0.02, -0.03, 0.0)),
    "dim_light": Look(ambient_rgb=grey(0.25), diffuse_rgb=grey(0.3)),
}
