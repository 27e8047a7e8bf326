"""Looks: colours, light and camera offset of a rendered board."""

from swm_jax.envs import ray_caster
from swm_jax.envs.scene import COLOURS, Triple
from swm_jax.worlds.board import geometry as board_geometry


class Look(ray_caster.Look):
    """Colours, light and camera of a scene; colours are red, green, blue in [0, 1].

    Attributes:
      board_rgb: colour of the board's top.
      background_rgb: colour of the background, independent of the light.
      peg_rgb: colour of the peg.
      block_rgb: one colour per entry of `scene.COLOURS`.
      camera_offset: at most 0.05 along each axis.
    """

    board_rgb: Triple = board_geometry.BOARD_RGB
    background_rgb: Triple = board_geometry.BACKGROUND_RGB
    peg_rgb: Triple = board_geometry.PEG_RGB
    block_rgb: tuple[Triple, ...] = tuple(
        board_geometry.BLOCK_RGB[name] for name in COLOURS
    )


LOOKS: dict[str, Look] = {
    "default": Look(),
    "unseen_background": Look(background_rgb=(0.3, 0.5, 0.42)),
    "unseen_board": Look(board_rgb=(0.45, 0.32, 0.2)),
    "camera_shift": Look(camera_offset=(0.03, 0.04, -0.03)),
    "dim_light": Look(
        background_rgb=(0.5, 0.5, 0.5),
        ambient_rgb=(0.25, 0.25, 0.25),
        diffuse_rgb=(0.3, 0.3, 0.3),
    ),
}
