"""Looks: colours, light and camera offset of a rendered board.

A look is data, not code: every field is a leaf of a pytree, so a jitted renderer
takes any look without compiling again, and `jax.vmap` over a batch of looks is
domain randomisation. The light is one directional lamp plus ambient light without
shadows or highlights, `colour * min(1, ambient + diffuse * max(0, -normal . light))`,
which is what OpenGL's fixed pipeline in `mujoco.Renderer` computes too.
"""

from flax import struct

from swm_jax.envs.scene import COLOURS, Triple, grey
from swm_jax.worlds.board import geometry as board_geometry


class Look(struct.PyTreeNode):
    """How a scene appears. Colours are red, green, blue in [0, 1].

    Attributes:
      board_rgb: colour of the board's top.
      background_rgb: colour of whatever surrounds the board; not lit.
      peg_rgb: colour of the peg.
      block_rgb: one colour per entry of `scene.COLOURS`.
      light_direction: the way the light travels, board frame, of any length.
      ambient_rgb: light that reaches every face.
      diffuse_rgb: light of the directional lamp at normal incidence.
      camera_offset: metres added to the camera's position, at most 0.05 along
        each axis; the viewing direction stays.
    """

    board_rgb: Triple = board_geometry.BOARD_RGB
    background_rgb: Triple = board_geometry.BACKGROUND_RGB
    peg_rgb: Triple = board_geometry.PEG_RGB
    block_rgb: tuple[Triple, ...] = tuple(
        board_geometry.BLOCK_RGB[name] for name in COLOURS
    )
    light_direction: Triple = board_geometry.LIGHT_DIRECTION
    ambient_rgb: Triple = grey(board_geometry.LIGHT_AMBIENT)
    diffuse_rgb: Triple = grey(board_geometry.LIGHT_DIFFUSE)
    camera_offset: Triple = (0.0, 0.0, 0.0)


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
