"""The renderer against MuJoCo's, against marched rays and against closed forms."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mujoco_pictures import drawn

from swm_jax import worlds
from swm_jax.envs.scene import BLOCK_NAMES, COLOURS, block_id
from swm_jax.worlds.board import geometry as board
from swm_jax.worlds.board.render import device as render
from swm_jax.worlds.board.render import looks
from swm_jax.worlds.board.scene import BLOCK_SETS, Scene

# Against mujoco.Renderer at pixel centres, default and other looks.
SEGMENTATION_AGREEMENT = 0.995  # share of pixels
COLOUR_DIFFERENCE = 0.5  # mean over all pixels and colours, of 255

MUJOCO_PROGRAM = """
import sys
import numpy as np
from swm_jax import worlds
from swm_jax.worlds.board.render import host as host_render
from swm_jax.worlds.board.scene import Scene

given = dict(np.load(sys.argv[1]))
out = {}
for case in given.pop("cases"):
    block_set, look, height, width = str(case).split("/")
    scene = Scene(*(given[block_set + name] for name in ("pose", "id", "peg")))
    with host_render.HostRenderer(
        int(height), int(width), look=worlds.load("board").look(look)
    ) as renderer:
        out[f"{case}:image"] = renderer.render(scene)
        out[f"{case}:label"] = renderer.segment(scene)
scene = Scene(*(given["standard" + name] for name in ("pose", "id", "peg")))
out["supersampled"] = host_render.render(scene, 40, 56, supersample=2)
np.savez(sys.argv[2], **out)
"""
CASES = (
    "standard/default/224/224",
    "unseen/default/224/224",
    "standard/camera_shift/224/224",
    "unseen/unseen_board/90/160",
    "standard/unseen_background/90/160",
    "unseen/dim_light/90/160",
)


def random_scenes(count: int, seed: int = 0, block_set: str = "standard") -> Scene:
    """Blocks in jittered cells of a grid, so that none stand inside each other."""
    rng = np.random.default_rng(seed)
    cells = np.stack(
        np.meshgrid(np.linspace(0.19, 0.56, 4), np.linspace(-0.25, 0.25, 5))
    )
    cells = cells.reshape(2, -1).T
    order = np.stack([rng.permutation(len(cells))[:9] for _ in range(count)])
    place = cells[order] + rng.uniform(-0.025, 0.025, (count, 9, 2))
    yaw = rng.uniform(-7.0, 7.0, (count, 8, 1))
    return Scene(
        block_pose=np.concatenate([place[:, :8], yaw], -1).astype(np.float32),
        block_id=np.tile(np.int32(BLOCK_SETS[block_set]), (count, 1)),
        peg=place[:, 8].astype(np.float32),
    )


def pick(scene: Scene, index: int = 0) -> Scene:
    return jax.tree.map(lambda x: x[index], scene)


@pytest.fixture(scope="module")
def mujoco_images(tmp_path_factory):
    arrays = {"cases": np.array(CASES)}
    for name in BLOCK_SETS:
        scene = random_scenes(4, seed=len(name), block_set=name)
        arrays |= {
            f"{name}pose": scene.block_pose,
            f"{name}id": scene.block_id,
            f"{name}peg": scene.peg,
        }
    return drawn(MUJOCO_PROGRAM, tmp_path_factory.mktemp("mujoco"), **arrays)


@pytest.mark.parametrize("case", CASES)
def test_pixels_agree_with_mujoco(mujoco_images, case):
    block_set, name, height, width = case.split("/")
    size, look = (int(height), int(width)), worlds.load("board").look(name)
    scene = random_scenes(4, seed=len(block_set), block_set=block_set)
    label = np.asarray(render.segment(scene, *size, look=look))
    agreement = (label == mujoco_images[f"{case}:label"]).mean()
    assert agreement > SEGMENTATION_AGREEMENT
    image = np.asarray(render.render(scene, *size, look=look)).astype(int)
    difference = np.abs(image - mujoco_images[f"{case}:image"]).mean()
    assert difference < COLOUR_DIFFERENCE
    for what in range(-1, 10):  # agreement is not just board and background
        theirs = mujoco_images[f"{case}:label"] == what
        both = (theirs & (label == what)).sum() / (theirs | (label == what)).sum()
        assert both > 0.9, what


def test_supersampling_agrees_with_mujoco(mujoco_images):
    scene = random_scenes(4, seed=len("standard"))
    ours = np.asarray(render.render(scene, 40, 56, supersample=2)).astype(int)
    assert np.abs(ours - mujoco_images["supersampled"]).mean() < COLOUR_DIFFERENCE


def marched_labels(scene: Scene, height: int, width: int) -> np.ndarray:
    """A slow reading of one scene: walk down every ray in small steps."""
    forward = np.array(board.CAMERA_FORWARD) / np.linalg.norm(board.CAMERA_FORWARD)
    right = np.array([0.0, 1.0, 0.0])
    up = np.cross(right, forward)
    tan = np.tan(np.radians(board.CAMERA_FOVY / 2))
    row, column = np.mgrid[0:height, 0:width] + 0.5
    ray = (
        forward
        + (1 - 2 * row / height)[..., None] * tan * up
        + (2 * column / width - 1)[..., None] * tan * board.CAMERA_ASPECT * right
    )
    label = np.full((height, width), -99)
    for z in np.linspace(0.15, 0.0, 300):
        depth = (z - board.CAMERA_POSITION[2]) / ray[..., 2]
        point = (board.CAMERA_POSITION + depth[..., None] * ray)[..., :2]
        found = np.full((height, width), -99)
        if board.PEG_BOTTOM < z < board.PEG_BOTTOM + board.PEG_LENGTH:
            away = np.linalg.norm(point - scene.peg, axis=-1)
            found[away < board.PEG_RADIUS] = render.PEG
        if z < board.BLOCK_HEIGHT:
            for slot, (x, y, yaw) in enumerate(scene.block_pose):
                shape = BLOCK_NAMES[scene.block_id[slot]].split()[1]
                turned = np.exp(-1j * yaw) * ((point - (x, y)) @ [1, 1j])
                corners = board.OUTLINES[shape] @ [1, 1j]
                to = corners - turned[..., None]
                turns = np.angle(np.roll(to, -1, axis=-1) / to).sum(-1)
                found[np.abs(turns) > np.pi] = render.FIRST_BLOCK + slot
        label = np.where(label == -99, found, label)
    edge = board.BOARD_MARGIN
    on_board = (point[..., 0] > board.X_BOUNDS[0] - edge) & (
        np.abs(point[..., 1]) < board.Y_BOUNDS[1] + edge
    )
    return np.where(label != -99, label, np.where(on_board, 0, -1))


def test_labels_agree_with_marched_rays():
    scene = pick(random_scenes(1, seed=3))
    expected = marched_labels(scene, 54, 80)
    label = np.asarray(render.segment(scene, 54, 80))
    assert (label == expected).mean() > 0.995
    assert set(np.unique(label)) == set(range(-1, 10))


@pytest.mark.parametrize("name", BLOCK_NAMES)
def test_shape_and_colour_follow_the_block_id(name):
    ids = np.full(8, block_id(name), np.int32)
    scene = pick(random_scenes(1, seed=4)).replace(block_id=ids)
    label = np.asarray(render.segment(scene, 54, 80))
    assert (label == marched_labels(scene, 54, 80)).mean() > 0.995
    image = np.asarray(render.render(scene, 54, 80)).astype(float)
    rgb = np.array(board.BLOCK_RGB[name.split()[0]])
    brightest = image[label >= render.FIRST_BLOCK].max(0)
    np.testing.assert_allclose(brightest / brightest.max(), rgb / rgb.max(), atol=0.01)


@hypothesis.given(x=st.floats(0.1, 0.6), y=st.floats(-0.3, 0.3), z=st.floats(0.0, 0.15))
def test_projection_is_the_pinhole_formula(x, y, z):
    # One matrix, solved rather than projected on axes.
    forward, up = np.array(board.CAMERA_FORWARD), np.array(board.CAMERA_UP)
    basis = np.stack([np.cross(forward, up), up, forward], 1)
    a, b, c = np.linalg.solve(basis, np.array([x, y, z]) - board.CAMERA_POSITION)
    half = np.tan(np.radians(board.CAMERA_FOVY) / 2)
    expected = 0.5 + 0.5 * a / c / half / board.CAMERA_ASPECT, 0.5 - 0.5 * b / c / half
    image = np.asarray(render.project(jnp.array([x, y, z])))
    np.testing.assert_allclose(image, expected, atol=2e-3)


def test_the_boards_near_edge_is_the_bottom_of_the_image():
    near = [(board.X_BOUNDS[1], y, 0.0) for y in board.Y_BOUNDS]
    corners = np.asarray(render.project(jnp.array(near)))
    np.testing.assert_allclose(corners, [[0, 1], [1, 1]], atol=0.01)


@hypothesis.given(seed=st.integers(0, 10_000))
def test_a_point_inside_the_visible_peg_projects_onto_peg_pixels(seed):
    scene = pick(random_scenes(1, seed))
    top = (*scene.peg, board.PEG_BOTTOM + board.PEG_LENGTH)
    column, row = np.asarray(render.project(jnp.array(top))) * (80, 54)
    label = np.asarray(render.segment(scene, 54, 80))
    if 0 <= row < 54 and 0 <= column < 80:  # the top of the peg hides behind nothing
        assert label[int(row), int(column)] == render.PEG


def test_windows_change_no_pixel():
    shifts = [(0.05, 0.05, -0.05), (-0.05, -0.05, -0.05), (0.05, 0.0, 0.05), (0, 0, 0)]
    rng = np.random.default_rng(0)
    scene = random_scenes(24, seed=5)
    # Also half out of view and at the very edges.
    wild = rng.uniform([0.12, -0.34, -4], [0.63, 0.34, 4], (24, 8, 3))
    scene = scene.replace(block_pose=wild.astype(np.float32))
    scene.peg[:] = rng.uniform([0.15, -0.3], [0.6, 0.3], (24, 2))

    @jax.jit
    def both(scene, shift):
        look = looks.Look(camera_offset=shift)
        return [
            render._draw(scene, windowed, look=look, h=48, w=40, k=2)
            for windowed in (True, False)
        ]

    for i in range(24):
        one = pick(scene, i)
        windowed, whole = both(one, jnp.float32(shifts[i % len(shifts)]))
        np.testing.assert_array_equal(windowed, whole)


def test_jit_vmap_and_leading_axes_give_the_same_pixels():
    scene = random_scenes(6, seed=6)
    draw = lambda s: render.render(s, 40, 56, supersample=2)
    expected = np.stack([draw(pick(scene, i)) for i in range(6)])
    assert expected.shape == (6, 40, 56, 3) and expected.dtype == np.uint8
    np.testing.assert_array_equal(draw(scene), expected)
    np.testing.assert_array_equal(jax.jit(jax.vmap(draw))(scene), expected)
    folded = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), scene)
    np.testing.assert_array_equal(draw(folded), expected.reshape(2, 3, 40, 56, 3))


def test_no_scenes_give_no_images():
    empty = jax.tree.map(lambda x: x[:0], random_scenes(1))
    assert render.render(empty, 8, 9).shape == (0, 8, 9, 3)


def test_a_batch_of_looks_vmaps():
    scene = pick(random_scenes(1))
    colours = jnp.eye(3)
    batch = jax.vmap(
        lambda rgb: render.render(scene, 32, 32, look=looks.Look(background_rgb=rgb))
    )(colours)
    np.testing.assert_array_equal(batch[:, 0, 0], np.eye(3) * 255)


def test_supersampling_averages_the_finer_image():
    scene = random_scenes(4, seed=7)
    fine = np.asarray(render.render(scene, 90, 160)).astype(float)
    mean = fine.reshape(4, 45, 2, 80, 2, 3).mean((2, 4))
    coarse = np.asarray(render.render(scene, 45, 80, supersample=2))
    assert np.abs(coarse - mean).max() <= 1.0


def test_every_look_changes_what_its_name_says():
    scene = random_scenes(4, seed=8)
    label = np.asarray(render.segment(scene, 90, 160))
    base = np.asarray(render.render(scene, 90, 160)).astype(int)
    changed = {
        name: (np.asarray(render.render(scene, 90, 160, look=look)) - base)
        for name, look in looks.LOOKS.items()
    }
    differs = {name: (d != 0).any(-1) for name, d in changed.items()}
    assert not differs["default"].any()
    np.testing.assert_array_equal(differs["unseen_background"], label == -1)
    np.testing.assert_array_equal(differs["unseen_board"], label == render.BOARD)
    assert (changed["dim_light"] < 0).any(-1).all()
    assert differs["camera_shift"][label >= render.FIRST_BLOCK].mean() > 0.3


def test_a_shifted_camera_sees_what_shifted_points_would_show():
    look = worlds.load("board").look("camera_shift")
    points = np.random.default_rng(0).uniform(0.1, 0.4, (20, 3)).astype(np.float32)
    np.testing.assert_allclose(
        render.project(points, look),
        render.project(points - np.float32(look.camera_offset)),
        atol=1e-5,
    )


def test_purple_is_only_in_the_unseen_set():
    purple = lambda s: {i for i in BLOCK_SETS[s] if BLOCK_NAMES[i].startswith("purple")}
    assert not purple("standard") and purple("unseen")
    assert len(looks.Look().block_rgb) == len(COLOURS)


def test_an_unknown_look_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'unseen_board'"):
        worlds.load("board").look("unseen_bord")


@pytest.mark.parametrize("size", [(0, 8, 1), (8, -1, 1), (8, 8, 0), (8.0, 8, 1)])
def test_a_size_that_is_no_positive_int_is_refused(size):
    with pytest.raises(ValueError, match="expected a positive int"):
        render.render(random_scenes(1), *size[:2], supersample=size[2])
