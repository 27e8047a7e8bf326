"""Looks of Push-T: colours, light and camera offset, as a pytree.

The default has gym_pusht's colours.
"""

from swm_jax.envs import ray_caster
from swm_jax.envs.scene import Triple, grey
from swm_jax.worlds.pusht import geometry


class Look(ray_caster.Look):
    """Colours, light and camera of a scene; colours are red, green, blue in [0, 1].

    Attributes:
      table_rgb: colour of the table.
      background_rgb: colour of the background, independent of the light.
      goal_rgb: colour of the goal, a sheet on the table.
      t_rgb: colour of the T.
      peg_rgb: colour of the peg.
      camera_offset: metres; the view is orthographic, so the height has no effect.
    """

    table_rgb: Triple = geometry.TABLE_RGB
    background_rgb: Triple = geometry.BACKGROUND_RGB
    goal_rgb: Triple = geometry.GOAL_RGB
    t_rgb: Triple = geometry.T_RGB
    peg_rgb: Triple = geometry.PEG_RGB


LOOKS: dict[str, Look] = {
    "default": Look(),
    "unseen_table": Look(table_rgb=(0.75, 0.62, 0.45)),
    "unseen_colours": Look(t_rgb=(0.75, 0.3, 0.25), peg_rgb=(0.2, 0.2, 0.2)),
    "camera_shift": Look(camera_offset=(0.02, -0.03, 0.0)),
    "dim_light": Look(ambient_rgb=grey(0.25), diffuse_rgb=grey(0.3)),
}
