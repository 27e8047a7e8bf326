"""Pictures of any scene: the renderer of its domain."""

from typing import Any

from jaxtyping import Array, UInt8

from swm_jax.envs.scene import AnyScene
from swm_jax.worlds.board import render
from swm_jax.worlds.cube import render as cube_render
from swm_jax.worlds.cube.scene import CubeScene


def picture(
    scene: AnyScene,
    height: int,
    width: int,
    *,
    supersample: int = 1,
    look: Any = None,
) -> UInt8[Array, "... h w 3"]:
    """As `render.render`, for scenes of the board and of the cube arm alike."""
    draw = cube_render.render if isinstance(scene, CubeScene) else render.render
    return draw(scene, height, width, supersample=supersample, look=look)
