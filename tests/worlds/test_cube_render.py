"""The cube arm's renderer against MuJoCo's."""

import functools

import jax
import numpy as np
import pytest
from mujoco_pictures import drawn
from scipy.spatial.transform import Rotation

from swm_jax import worlds
from swm_jax.worlds.cube import geometry as geometry
from swm_jax.worlds.cube.render import device as cube_render
from swm_jax.worlds.cube.render import looks as cube_looks
from swm_jax.worlds.cube.scene import CUBES, CubeScene

SIZE = 128
SEGMENTATION_AGREEMENT = 0.997  # share of pixels
COLOUR_DIFFERENCE = 0.5  # mean over all pixels and colours, of 255
CASES = (
    "default",
    "solid_arm",
    "no_arm",
    "camera_shift",
    "dim_light",
    "unseen_colours",
)

MUJOCO_PROGRAM = """
import sys
import numpy as np
from swm_jax import worlds
from swm_jax.worlds.cube.render.host import CubeHostRenderer, render
from swm_jax.worlds.cube.scene import CubeScene

given = dict(np.load(sys.argv[1]))
scene = CubeScene(given["pose"], given["id"], given["gripper"])
out = {}
for name in given["cases"]:
    look = worlds.load("cube").look(str(name))
    with CubeHostRenderer(int(given["size"]), int(given["size"]), look=look) as draw:
        out[f"{name}:image"] = draw.render(scene)
        out[f"{name}:label"] = draw.segment(scene)
one = scene.replace(**{k: v[0] for k, v in vars(scene).items()})
out["supersampled"] = render(one, 40, 56, supersample=2)
np.savez(sys.argv[2], **out)
"""


def random_scenes(count: int = 4, seed: int = 0) -> CubeScene:
    """Cubes turned every way in the air, the gripper low, high, open and closed."""
    rng = np.random.default_rng(seed)
    low, high = geometry.WORKSPACE_LOW, geometry.WORKSPACE_HIGH
    pose = np.zeros((count, 4, 7), np.float32)
    cells = np.array([[0.3, -0.25], [0.35, 0.2], [0.5, -0.1], [0.55, 0.25]])
    pose[..., :2] = cells + rng.uniform(-0.04, 0.04, (count, 4, 2))
    pose[..., 2] = rng.uniform(0.035, 0.3, (count, 4))
    turns = Rotation.random(4 * count, random_state=seed).as_quat()
    pose[..., 3:] = np.roll(turns, 1, -1).reshape(count, 4, 4)
    gripper = np.zeros((count, 6), np.float32)
    gripper[:, :3] = rng.uniform(low, high, (count, 3))
    gripper[:, 3] = rng.uniform(-4, 4, count)
    gripper[:, 4:] = rng.uniform(0, geometry.MAX_GAP, (count, 2))
    return CubeScene(pose, np.tile(np.int32(CUBES), (count, 1)), gripper)


@pytest.fixture(scope="module")
def mujoco_images(tmp_path_factory):
    scene = random_scenes()
    return drawn(
        MUJOCO_PROGRAM,
        tmp_path_factory.mktemp("mujoco"),
        pose=scene.block_pose,
        id=scene.block_id,
        gripper=scene.gripper,
        cases=np.array(CASES),
        size=SIZE,
    )


@pytest.mark.parametrize("name", CASES)
def test_pixels_agree_with_mujoco(mujoco_images, name):
    look, scene = worlds.load("cube").look(name), random_scenes()
    theirs = mujoco_images[f"{name}:label"]
    ours = np.asarray(cube_render.segment(scene, SIZE, SIZE, look=look))
    assert (ours == theirs).mean() > SEGMENTATION_AGREEMENT
    shown = set(np.unique(theirs))
    assert {0, 2, 3, 4, 5} <= shown and (1 in shown) == (name != "no_arm")
    for what in shown:  # agreement is not just table and background
        both = ((theirs == what) & (ours == what)).sum()
        assert both / ((theirs == what) | (ours == what)).sum() > 0.9, what
    image = np.asarray(cube_render.render(scene, SIZE, SIZE, look=look)).astype(int)
    difference = np.abs(image - mujoco_images[f"{name}:image"])
    assert difference.mean() < COLOUR_DIFFERENCE
    arm = theirs == 1
    if arm.any():
        # Transparency too; MuJoCo sorts boxes by their centres, we pixel by pixel.
        assert difference[arm].mean() < 5.0


def test_windows_change_no_pixel():
    """CPUs look at windows, accelerators at whole images."""
    draw = functools.partial(
        cube_render._draw, look=cube_looks.CubeLook(), h=40, w=56, k=1
    )
    draw = jax.jit(draw, static_argnums=1)
    for i in range(3):
        scene = jax.tree.map(lambda x, i=i: x[i], random_scenes(3, 5))
        part, whole = (np.int32(draw(scene, windowed)) for windowed in (True, False))
        assert np.abs(part - whole).max() <= 1


def test_points_land_where_their_cube_is_drawn():
    scene = jax.tree.map(lambda x: x[0], random_scenes(1, 3))
    label = np.asarray(
        cube_render.segment(scene, 96, 128, look=worlds.load("cube").look("no_arm"))
    )
    spots = np.asarray(cube_render.project(scene.block_pose[:, :3], aspect=128 / 96))
    for slot, (x, y) in enumerate(spots):
        assert label[int(y * 96), int(x * 128)] == 2 + slot


def test_the_camera_is_ogbenchs():
    """The middle of the image looks along its front_pixels camera."""
    x_axis, y_axis = np.array([0, 1, 0.0]), np.array([-0.628, 0.001, 0.778])
    forward = -np.cross(x_axis, y_axis / np.linalg.norm(y_axis))
    at = np.array([1.053, -0.014, 0.639]) + 0.8 * forward
    np.testing.assert_allclose(cube_render.project(at), [0.5, 0.5], atol=1e-3)


def test_supersampled_pictures_agree_with_mujoco(mujoco_images):
    one = jax.tree.map(lambda x: x[0], random_scenes())
    ours = np.asarray(cube_render.render(one, 40, 56, supersample=2)).astype(int)
    theirs = mujoco_images["supersampled"]
    assert ours.shape == theirs.shape == (40, 56, 3)
    assert np.abs(ours - theirs).mean() < 2 * COLOUR_DIFFERENCE


def test_looks_are_found_by_name():
    with pytest.raises(ValueError, match="did you mean 'solid_arm'"):
        worlds.load("cube").look("solid_arms")
