"""Push-T's renderer against MuJoCo's."""

import functools

import jax
import numpy as np
import pytest
from mujoco_pictures import drawn

from swm_jax import worlds
from swm_jax.worlds.pusht import geometry
from swm_jax.worlds.pusht.render import device as render
from swm_jax.worlds.pusht.render.looks import LOOKS
from swm_jax.worlds.pusht.scene import Scene

SIZES = ((96, 96), (40, 56), (64, 48))
AGREEMENT = 0.997  # share of pixels

MUJOCO_PROGRAM = """
import sys
import numpy as np
from swm_jax.worlds.pusht.render.host import HostRenderer, render
from swm_jax.worlds.pusht.render.looks import LOOKS
from swm_jax.worlds.pusht.scene import Scene

given = dict(np.load(sys.argv[1]))
scene = Scene(given["pose"], given["id"], given["peg"])
out = {}
for name in given["looks"]:
    with HostRenderer(96, 96, look=LOOKS[str(name)]) as draw:
        out[f"{name}:image"] = draw.render(scene)
for height, width in given["sizes"]:
    with HostRenderer(int(height), int(width)) as draw:
        out[f"{height}x{width}:label"] = draw.segment(scene)
one = scene.replace(**{k: v[0] for k, v in vars(scene).items()})
out["supersampled"] = render(one, 40, 56, supersample=2)
np.savez(sys.argv[2], **out)
"""


@functools.cache
def random_scenes() -> Scene:
    """Ts anywhere, one on its goal, one under the peg's edge."""
    rng = np.random.default_rng(0)
    pose = rng.uniform([0.1, 0.1, -4.0], [0.4, 0.4, 4.0], (6, 3))
    pose[0] = geometry.GOAL_POSE
    peg = rng.uniform(0.02, 0.49, (6, 2))
    peg[1] = pose[1, :2] + 0.02
    return Scene(np.float32(pose)[:, None], np.zeros((6, 1), np.int32), np.float32(peg))


@pytest.fixture(scope="module")
def mujoco_images(tmp_path_factory):
    scene = random_scenes()
    return drawn(
        MUJOCO_PROGRAM,
        tmp_path_factory.mktemp("mujoco"),
        pose=scene.block_pose,
        id=scene.block_id,
        peg=scene.peg,
        looks=np.array(list(LOOKS)),
        sizes=np.array(SIZES),
    )


@pytest.mark.parametrize("size", SIZES)
def test_segmentation_agrees_with_mujoco(mujoco_images, size):
    ours = np.asarray(render.segment(random_scenes(), *size))
    theirs = mujoco_images[f"{size[0]}x{size[1]}:label"]
    assert (ours == theirs).mean() > AGREEMENT
    seen = {*np.unique(ours)}
    assert {render.TABLE, render.PEG, render.T, render.GOAL} <= seen
    assert (render.BACKGROUND in seen) == (size[0] != size[1])


@pytest.mark.parametrize("look", LOOKS)
def test_pictures_agree_with_mujoco_in_every_look(mujoco_images, look):
    ours = np.asarray(render.render(random_scenes(), 96, 96, look=LOOKS[look]))
    theirs = mujoco_images[f"{look}:image"]
    gap = np.abs(ours.astype(int) - theirs)
    assert np.median(gap) <= 1
    assert gap.mean() < 0.5
    assert (gap.max(-1) > 16).mean() < 1 - AGREEMENT


def test_supersampled_pictures_agree_with_mujoco(mujoco_images):
    one = jax.tree.map(lambda x: x[0], random_scenes())
    ours = np.asarray(render.render(one, 40, 56, supersample=2))
    gap = np.abs(ours.astype(int) - mujoco_images["supersampled"])
    assert gap.mean() < 1.0


def test_a_pixel_shows_the_place_that_gym_pusht_shows_there():
    """Pixel (row, column) of 512 is (v, u) there: x = u mm, y = 512 - v mm."""
    scene = Scene(
        np.float32([[0.4, 0.4, 0.0]]), np.zeros(1, np.int32), np.float32([0.1, 0.45])
    )
    label = np.asarray(render.segment(scene, 512, 512))
    rows, columns = np.nonzero(label == render.PEG)
    np.testing.assert_allclose([columns.mean(), rows.mean()], [99.5, 61.5], atol=0.6)
    assert len(rows) == pytest.approx(np.pi * 15**2, rel=0.02)
    assert (label == render.T).sum() == pytest.approx(6300, rel=0.02)
    assert (label == render.GOAL).sum() == pytest.approx(6300, rel=0.02)


def test_the_world_draws_what_the_renderer_draws():
    world = worlds.load("pusht")
    env = world.make_env("mujoco")
    states = env.reset_batch(jax.random.split(jax.random.key(0), 2))
    ours = world.pictures(env, 32, 32)(states)
    expected = render.render(env.scene(states), 32, 32, supersample=2)
    np.testing.assert_array_equal(ours, expected)
