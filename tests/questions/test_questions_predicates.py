"""Labels against a slow reading of the definitions, symmetry, mirrors, continuity."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swm_jax import worlds
from swm_jax.envs import BLOCK_NAMES
from swm_jax.questions import (
    expand,
)
from swm_jax.questions.wordings import DIRECTIONS
from swm_jax.worlds.board.geometry import CAMERA_FORWARD, CAMERA_UP, X_BOUNDS, Y_BOUNDS
from swm_jax.worlds.board.scene import BLOCK_SETS, Scene
from swm_jax.worlds.board.words import REGIONS

BOARD = worlds.language("board")
TYPES = BOARD.select()
TABLE = BOARD.table(BLOCK_SETS["standard"])
IDS = np.array(BLOCK_SETS["standard"], np.int32)
SEEDS = st.integers(0, 2**32 - 1)
_margin = jax.jit(BOARD.margin)


def random_pair(seed, steps=1):
    """A scene and a later one: some blocks pushed, clusters likely."""
    rng = np.random.default_rng(seed)
    low, high = zip(X_BOUNDS, Y_BOUNDS)
    xy = rng.uniform(low, high, (8, 2))
    partner = xy[rng.permutation(8)] + rng.normal(0, 0.05, (8, 2))
    xy = np.where(rng.random((8, 1)) < 0.5, partner, xy)
    peg = xy[rng.integers(8)] + rng.normal(0, 0.06, 2)
    moved = xy + rng.normal(0, 0.08, (8, 2)) * (rng.random((8, 1)) < 0.6)
    ids = rng.permutation(IDS)
    build = lambda points, p: Scene(
        np.concatenate([points, rng.uniform(-3, 3, (8, 1))], 1).astype(np.float32),
        ids,
        p.astype(np.float32),
    )
    return build(xy, peg), build(moved, peg + rng.normal(0, 0.07, 2))


def margins(before, after, table=TABLE):
    one = lambda s: jax.tree.map(jnp.asarray, expand(s))
    return np.asarray(_margin(table.type_id, table.args, one(before), one(after)))


def ask(before, after, *words):
    asked = BOARD.question(*words)
    return float(
        BOARD.margin(np.array(asked.type_id), np.array(asked.args), before, after)
    )


def slow_truth(asked, before, after):
    """The definitions in plain Python and float64, with angles and sampled rays."""

    def place(scene, name):
        if name == "peg":
            return [float(v) for v in scene.peg]
        slot = [int(i) for i in scene.block_id].index(name)
        return [float(v) for v in scene.block_pose[slot, :2]]

    def towards(name):  # the image's up is -x, its right is +y
        x = -1.0 * ("up" in name) + 1.0 * ("down" in name)
        y = -1.0 * ("left" in name) + 1.0 * ("right" in name)
        return x / math.hypot(x, y), y / math.hypot(x, y)

    kind = asked.type
    blocks = list(asked.blocks)
    things = ["peg", *blocks] if kind.startswith("peg") else blocks
    start = [place(before, thing) for thing in things]
    end = [place(after, thing) for thing in things]
    if kind.endswith("touching"):
        return math.dist(*end) < 0.05
    if kind == "blocks_apart":
        return math.dist(*end) > 0.1
    if kind.endswith("closer"):
        return math.dist(*start) - math.dist(*end) > 0.04
    if kind.endswith("moved"):
        return math.dist(start[0], end[0]) > 0.04
    if kind == "block_region":
        rows = {"top": 0.21, "bottom": 0.54}
        columns = {"left": -0.2448, "right": 0.2448}
        words = REGIONS[asked.args[1]].split()
        x = next((rows[w] for w in words if w in rows), 0.375)
        y = next((columns[w] for w in words if w in columns), 0.0)
        return math.dist(end[0], (x, y)) < (0.1 if words == ["center"] else 0.115)
    name = DIRECTIONS[asked.args[len(blocks)]]
    dx, dy = towards(name)
    if kind.endswith("moved_direction"):
        vx, vy = end[0][0] - start[0][0], end[0][1] - start[0][1]
        turn = abs(math.atan2(vx * dy - vy * dx, vx * dx + vy * dy))
        limit = math.radians(30 if " " in name else 20)
        return math.hypot(vx, vy) > 0.04 and turn < limit
    assert kind.endswith("_direction")
    (ax, ay), (bx, by) = end
    ray = [0.05 + 0.05 * i / 2000 for i in range(2001)]
    return min(math.dist((ax, ay), (bx + s * dx, by + s * dy)) for s in ray) < 0.04


@given(SEEDS)
def test_labels_equal_a_slow_reading_of_the_definitions(seed):
    before, after = random_pair(seed)
    values = margins(before, after)
    rng = np.random.default_rng(seed)
    for index in rng.choice(len(TABLE), 60, replace=False):
        if abs(values[index]) > 1e-5:
            asked = TABLE.question(index)
            truth = slow_truth(asked, before, after)
            assert (values[index] > 0) == truth, asked.text


def test_both_answers_of_every_type_occur_in_the_comparison_above():
    seen = set()
    for seed in range(30):
        answers = margins(*random_pair(seed)) > 0
        seen |= set(zip(TABLE.type_id.tolist(), answers.tolist()))
    assert seen == {(i, a) for i in range(len(TYPES)) for a in (False, True)}


@given(SEEDS)
def test_relations_between_two_blocks_are_symmetric(seed):
    before, after = random_pair(seed)
    a, b = (BLOCK_NAMES[i] for i in np.random.default_rng(seed).permutation(IDS)[:2])
    for kind in ("block_touching", "blocks_closer", "blocks_apart"):
        one, other = ask(before, after, kind, a, b), ask(before, after, kind, b, a)
        assert one == pytest.approx(other, abs=1e-7)
    for k, name in enumerate(DIRECTIONS):
        there = ask(before, after, "block_direction", a, b, name)
        back = ask(before, after, "block_direction", b, a, DIRECTIONS[(k + 4) % 8])
        assert there == pytest.approx(back, abs=1e-6)


def _swap(words, pairs):
    table = {**dict(pairs), **{b: a for a, b in pairs}}
    return " ".join(table.get(w, w) for w in words.split())


@pytest.mark.parametrize(
    "sign, centre, pairs",
    [
        ((1, -1), (0.0, 0.0), [("left", "right")]),
        ((-1, 1), (0.75, 0.0), [("up", "down"), ("top", "bottom")]),
    ],
    ids=["left-right", "up-down"],
)
@given(seed=SEEDS)
def test_a_mirrored_board_swaps_the_words(sign, centre, pairs, seed):
    def mirror(scene):
        pose = scene.block_pose.copy()
        pose[:, :2] = np.array(centre) + np.array(sign) * pose[:, :2]
        peg = (np.array(centre) + np.array(sign) * scene.peg).astype(np.float32)
        return scene.replace(block_pose=pose.astype(np.float32), peg=peg)

    before, after = random_pair(seed)
    values = margins(before, after)
    mirrored = margins(mirror(before), mirror(after))
    row = {TABLE.question(i): i for i in range(len(TABLE))}
    for i in np.random.default_rng(seed).choice(len(TABLE), 40, replace=False):
        asked = TABLE.question(i)
        names = [BLOCK_NAMES[b] for b in asked.blocks]
        if asked.type == "block_region":
            names.append(_swap(REGIONS[asked.args[1]], pairs))
        elif "direction" in asked.type:
            names.append(_swap(DIRECTIONS[asked.args[len(names)]], pairs))
        twin = BOARD.question(asked.type, *names)
        assert mirrored[row[twin]] == pytest.approx(values[i], abs=1e-5), asked.text


@given(SEEDS, st.floats(1e-4, 3e-3))
def test_margins_never_jump(seed, step):
    """Every margin is a sum of at most two distances: slope 4 per moved point."""
    before, after = random_pair(seed)
    rng = np.random.default_rng(seed)
    shift = lambda x: (x + rng.uniform(-step, step, x.shape)).astype(np.float32)
    near = after.replace(block_pose=shift(after.block_pose), peg=shift(after.peg))
    change = np.abs(margins(before, near) - margins(before, after))
    assert change.max() < 4 * step * math.sqrt(2)


@given(SEEDS)
def test_numpy_and_jax_read_the_same_definition(seed):
    before, after = random_pair(seed)
    one = expand(before), expand(after)
    host = BOARD.margin(TABLE.type_id, TABLE.args, *one)
    assert isinstance(host, np.ndarray) and host.dtype == np.float32
    np.testing.assert_allclose(host, margins(before, after), atol=1e-6)


def test_questions_about_change_are_answered_no_at_horizon_zero():
    scene, _ = random_pair(3)
    values = margins(scene, scene)
    changes = [kind.id for kind in TYPES if kind.about_change]
    change = np.isin(TABLE.type_id, changes)
    assert (values[change] < 0).all()
    assert (values[~change] > 0).any()


def test_gradients_are_finite_even_where_nothing_moved():
    scene = jax.tree.map(jnp.asarray, random_pair(5)[0])

    def total(pose, peg):
        later = expand(scene.replace(block_pose=pose, peg=peg))
        now = expand(scene)
        return BOARD.margin(TABLE.type_id, TABLE.args, now, later).sum()

    for grad in jax.grad(total, (0, 1))(scene.block_pose, scene.peg):
        assert jnp.isfinite(grad).all() and jnp.abs(grad).max() > 0


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_wrong_move_never_scores_above_standing_still(name):
    """A planner that climbs the margin must not be sent backwards first."""
    before, _ = random_pair(0)
    x = -1.0 * ("up" in name) + 1.0 * ("down" in name)
    y = -1.0 * ("left" in name) + 1.0 * ("right" in name)
    way = np.array([x, y]) / np.hypot(x, y)
    value = lambda s: ask(
        before,
        before.replace(peg=(before.peg + s * way).astype(np.float32)),
        "peg_moved_direction",
        name,
    )
    backwards = [value(-s) for s in np.linspace(0, 0.1, 11)]
    forwards = [value(s) for s in np.linspace(0, 0.1, 11)]
    assert np.all(np.diff(backwards) < 0) and np.all(np.diff(forwards) > 0)
    assert forwards[0] < 0 < forwards[-1]


def test_scenes_questions_and_horizons_broadcast():
    pairs = [random_pair(seed) for seed in range(3)]
    scenes = jax.tree.map(lambda *x: np.stack(x), *[p[0] for p in pairs])
    later = jax.tree.map(
        lambda *x: np.stack(x)[:, None].repeat(2, 1), *[p[1] for p in pairs]
    )
    rows = np.random.default_rng(0).integers(0, len(TABLE), (3, 5))
    type_id, args = TABLE.type_id[rows], TABLE.args[rows]
    got = _margin(
        type_id[:, None],
        args[:, None],
        expand(scenes, 2),
        expand(later, 1),
    )
    assert got.shape == (3, 2, 5)
    for s, (before, after) in enumerate(pairs):
        want = margins(before, after)[rows[s]]
        np.testing.assert_allclose(got[s], [want, want], atol=1e-6)


# The mistakes of the original data, each by name.


def _still(blocks, peg):
    names = ["red moon", "blue cube", *["green star"] * 6]
    ids = np.array([BLOCK_NAMES.index(n) for n in names], np.int32)
    pose = np.zeros((8, 3), np.float32)
    pose[:, :2] = (0.55, 0.29)
    pose[: len(blocks), :2] = blocks
    return Scene(pose, ids, np.array(peg, np.float32))


def test_closer_means_a_smaller_distance_not_a_larger_one():
    far = _still([(0.3, -0.1), (0.3, 0.2)], (0.5, 0.0))
    near = _still([(0.3, 0.1), (0.3, 0.2)], (0.35, 0.1))
    for words in (
        ("peg_closer", "red moon"),
        ("blocks_closer", "red moon", "blue cube"),
    ):
        assert ask(far, near, *words) > 0 > ask(near, far, *words)


def test_a_block_that_moved_is_reported_as_moved():
    start = _still([(0.3, 0.0), (0.4, 0.1)], (0.5, 0.0))
    pushed = _still([(0.3, 0.06), (0.4, 0.1)], (0.5, 0.0))
    assert ask(start, pushed, "block_moved", "red moon") > 0
    assert ask(start, pushed, "block_moved", "blue cube") < 0
    assert ask(start, pushed, "block_moved_direction", "red moon", "right") > 0
    assert ask(start, pushed, "block_moved_direction", "red moon", "left") < 0


def test_a_block_that_is_not_on_the_board_has_no_answer():
    scene = _still([(0.3, 0.0), (0.4, 0.1)], (0.5, 0.0))
    assert math.isnan(ask(scene, scene, "peg_touching", "purple cube"))
    assert math.isnan(ask(scene, scene, "block_touching", "red moon", "purple cube"))
    assert not math.isnan(ask(scene, scene, "peg_moved"))


def test_right_in_words_is_right_in_the_camera_image():
    image_right = np.cross(CAMERA_FORWARD, CAMERA_UP)
    image_up = np.array(CAMERA_UP)[:2]
    start = _still([(0.35, 0.0), (0.55, -0.2)], (0.35, 0.0))
    for word, way in (("right", image_right[:2]), ("up", image_up)):
        goal = np.array([0.35, 0.0]) + 0.07 * way / np.linalg.norm(way)
        end = _still([goal, (0.35, 0.0)], goal)
        assert ask(start, end, "peg_moved_direction", word) > 0
        assert ask(start, end, "block_moved_direction", "red moon", word) > 0
        assert ask(end, end, "block_direction", "red moon", "blue cube", word) > 0
