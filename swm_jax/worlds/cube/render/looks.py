"""Looks of the cube world: colours, light, camera, and transparency of the arm.

The arm is transparent by default (OGBench's pixel observations have it at alpha 0.1 and
the finger pads at 0.5); alpha 1 draws it solid, 0 hides it.
"""

from swm_jax.envs.ray_caster import Look
from swm_jax.envs.scene import COLOURS, Triple

# OGBench's colours; what it calls orange is the paper's yellow.
_RGB = {
    "red": (0.96, 0.26, 0.33),
    "blue": (0.35, 0.55, 0.91),
    "green": (0.06, 0.74, 0.21),
    "yellow": (1.0, 0.69, 0.21),
    "purple": (0.61, 0.28, 0.82),
}


class CubeLook(Look):
    """Colours, light and camera of a cube scene; colours are RGB in [0, 1].

    Attributes:
      table_rgb: colour of the table.
      background_rgb: colour of the background, independent of the light.
      pad_rgb: colour of the fingers.
      arm_rgb: colour of the palm and the arm above it.
      cube_rgb: one colour per entry of `scene.COLOURS`.
      pad_alpha, arm_alpha: 0 transparent .. 1 solid.
    """

    table_rgb: Triple = (0.13, 0.16, 0.22)
    background_rgb: Triple = (0.05, 0.06, 0.09)
    pad_rgb: Triple = _RGB["purple"]
    arm_rgb: Triple = _RGB["purple"]
    cube_rgb: tuple[Triple, ...] = tuple(_RGB[name] for name in COLOURS)
    pad_alpha: float = 0.5
    arm_alpha: float = 0.1


def _colours(**changed) -> tuple[Triple, ...]:
    return tuple({**_RGB, **changed}[name] for name in COLOURS)


CUBE_LOOKS: dict[str, CubeLook] = {
    "default": CubeLook(),
    "solid_arm": CubeLook(pad_alpha=1.0, arm_alpha=1.0),
    "no_arm": CubeLook(pad_alpha=0.0, arm_alpha=0.0),
    "unseen_background": CubeLook(
        table_rgb=(0.42, 0.33, 0.22), background_rgb=(0.3, 0.5, 0.42)
    ),
    # Other shades under the same names: a name still fits one cube only.
    "unseen_colours": CubeLook(
        cube_rgb=_colours(
            red=(0.6, 0.08, 0.12),
            blue=(0.1, 0.2, 0.55),
            green=(0.55, 0.85, 0.45),
            yellow=(0.85, 0.95, 0.25),
        )
    ),
    "camera_shift": CubeLook(camera_offset=(0.03, 0.04, -0.03)),
    "dim_light": CubeLook(ambient_rgb=(0.25, 0.25, 0.25), diffuse_rgb=(0.3, 0.3, 0.3)),
}
