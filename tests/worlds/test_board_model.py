"""The MJCF model: shapes that collide, shapes that are seen, the peg's servo."""

import mujoco
import numpy as np
import pytest

from swm_jax.envs import BLOCK_NAMES
from swm_jax.envs.pushing_model import servo_gains
from swm_jax.worlds.board import geometry as board_geometry
from swm_jax.worlds.board.model import (
    board_mjcf,
    collision_capsules,
    outline_triangles,
)
from swm_jax.worlds.board.scene import BLOCK_SETS, SLOT_SHAPES

SHAPES = sorted(board_geometry.OUTLINES)


def board_model(**options):
    return mujoco.MjModel.from_xml_string(board_mjcf(**options))


def rim(outline, per_side=40):
    share = np.linspace(0.0, 1.0, per_side, endpoint=False)[:, None, None]
    return (outline + (np.roll(outline, -1, 0) - outline) * share).reshape(-1, 2)


def distance_to_capsules(points, capsules):
    """Brute force: capsules as many discs."""
    share = np.linspace(0.0, 1.0, 200)[:, None]
    least = np.full(len(points), np.inf)
    for x0, y0, x1, y1, radius in capsules:
        centres = np.array([x0, y0]) * (1 - share) + np.array([x1, y1]) * share
        apart = np.linalg.norm(points[:, None] - centres, axis=-1).min(1)
        least = np.minimum(least, apart - radius)
    return least


def area(outline):
    x, y = outline.T
    return 0.5 * (x * np.roll(y, -1) - y * np.roll(x, -1)).sum()


@pytest.mark.parametrize("shape", SHAPES)
def test_collision_shapes_follow_the_outline_within_2_millimetres(shape):
    outline = board_geometry.OUTLINES[shape]
    error = distance_to_capsules(rim(outline), collision_capsules(shape))
    assert np.abs(error).mean() < 0.8e-3
    assert np.abs(error).max() < 2.2e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_triangles_tile_the_outline(shape):
    outline = board_geometry.OUTLINES[shape]
    triangles = outline_triangles(outline)
    areas = [area(outline[list(corners)]) for corners in triangles]
    assert len(triangles) == len(outline) - 2 and min(areas) >= 0.0
    np.testing.assert_allclose(sum(areas), area(outline), rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_visual_prisms_lie_where_the_outline_is(shape):
    """MuJoCo moves a mesh into its own frame; the geom must move it back."""
    model = board_model()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    geom = model.geom(f"block{SLOT_SHAPES.index(shape)}_visual")
    mesh = model.mesh(shape)
    start, count = mesh.vertadr[0], mesh.vertnum[0]
    turn = data.geom_xmat[geom.id].reshape(3, 3)
    corners = model.mesh_vert[start : start + count] @ turn.T
    corners = corners + data.geom_xpos[geom.id]
    outline = board_geometry.OUTLINES[shape]
    for z in (0.0, board_geometry.BLOCK_HEIGHT):
        level = corners[np.abs(corners[:, 2] - z) < 1e-6][:, :2]
        apart = np.linalg.norm(level[:, None] - outline, axis=-1)
        assert len(level) == len(outline) and apart.min(0).max() < 1e-6


def test_no_visual_shape_collides():
    model = board_model()
    for i in range(model.ngeom):
        visual = model.geom(i).name.endswith("_visual")
        assert visual == (model.geom(i).contype[0] == 0)
    assert model.nv == board_model(visuals=False).nv == 26


def test_block_set_changes_colours_only():
    standard, unseen = (board_model(block_set=name) for name in BLOCK_SETS)
    for slot, block in enumerate(BLOCK_SETS["unseen"]):
        colour = BLOCK_NAMES[block].split()[0]
        rgba = unseen.geom(f"block{slot}_visual").rgba
        np.testing.assert_allclose(rgba[:3], board_geometry.BLOCK_RGB[colour])
    np.testing.assert_array_equal(standard.geom_size, unseen.geom_size)
    assert not np.array_equal(standard.geom_rgba, unseen.geom_rgba)


def test_inertia_of_the_cube_is_the_textbook_one():
    width = np.ptp(board_geometry.OUTLINES["cube"], axis=0)
    expected = board_geometry.BLOCK_MASS * (width**2).sum() / 12
    inertia = board_model().body("block4").inertia
    np.testing.assert_allclose(inertia[2], expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_servo_covers_91_percent_at_any_physics_step(steps):
    dt = board_geometry.CONTROL_PERIOD / steps
    stiffness, damping = servo_gains(dt, steps, 0.91)
    x = v = 0.0
    for _ in range(steps):
        v += dt * (stiffness * (1.0 - x) - damping * v)
        x += dt * v
    np.testing.assert_allclose(x, 0.91, atol=1e-6)
