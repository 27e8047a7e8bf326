"""Push-T: coverage, distances and every rule against definitions of their own.

The definitions count points of the T or compare angles, in float64, without the world's
own geometry.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swm_jax import worlds
from swm_jax.models.tokenizer import Tokenizer
from swm_jax.worlds.pusht import geometry
from swm_jax.worlds.pusht.overlap import coverage, goal_distance, t_gap
from swm_jax.worlds.pusht.scene import Scene
from swm_jax.worlds.pusht.tasks import make_task, task_success

LANGUAGE = worlds.language("pusht")
GOAL = np.float64(geometry.GOAL_POSE)
CENTIMETRES = np.array([0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30])
UNIT, TOP = 0.03, 0.03 * 9.5 / 7  # the bar's long edge above the centroid


def in_t(points):
    """Whether points of the T's frame are inside: bar 4 x 1 units, stem 1 x 3."""
    x, y = np.abs(points[..., 0]), TOP - points[..., 1]
    bar = (x <= 2 * UNIT) & (y >= 0) & (y <= UNIT)
    return bar | ((x <= UNIT / 2) & (y >= UNIT) & (y <= 4 * UNIT))


def turned(points, angle):
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


@functools.cache
def points_of_t(step):
    """One random point of every cell of a grid that is in the T, in its frame."""
    line = np.arange(-0.1, 0.1, step)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    grid += np.random.default_rng(0).uniform(0.0, step, grid.shape)
    return grid[in_t(grid)]


def counted_coverage(pose, step=0.0004):
    """Share of the goal's points that are in the T."""
    points = turned(points_of_t(step), GOAL[2]) + GOAL[:2]
    return in_t(turned(points - pose[:2], -pose[2])).mean()


def poses_near_goal(count, seed=0):
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.uniform(np.log(1e-4), np.log(0.1), (count, 1)))
    return GOAL + spread * rng.normal(size=(count, 3)) * [1.0, 1.0, 12.0]


def scenes(count, seed=0) -> Scene:
    rng = np.random.default_rng(seed)
    pose = np.float32(poses_near_goal(count, seed))[:, None]
    peg = pose[:, 0, :2] + rng.normal(0, 0.06, (count, 2))
    return Scene(pose, np.zeros((count, 1), np.int32), np.float32(peg))


def test_coverage_is_the_share_of_the_goals_points_in_the_t():
    poses = poses_near_goal(60)
    expected = np.array([counted_coverage(pose) for pose in poses])
    assert expected.min() < 0.2 and expected.max() > 0.97
    np.testing.assert_allclose(coverage(np.float32(poses)), expected, atol=0.003)
    on_jax = jax.jit(coverage)(jnp.float32(poses))
    np.testing.assert_allclose(on_jax, coverage(np.float32(poses)), atol=2e-5)


def test_coverage_of_a_shifted_t_follows_from_its_sides():
    """Beside by d, the bar loses 0.03 d and the stem 0.09 d of 0.0063 m^2."""
    shift = np.array([0.0, 1e-5, 0.001, 0.01, 0.015])
    way = np.stack([np.cos(GOAL[2]), np.sin(GOAL[2]), 0.0])
    poses = np.float32(GOAL + shift[:, None] * way)
    np.testing.assert_allclose(coverage(poses), 1 - 0.12 / 0.0063 * shift, atol=1e-4)


def test_coverage_is_one_at_the_goal_after_whole_turns_and_zero_far_away():
    turns = np.float32([GOAL + [0, 0, 2 * np.pi * n] for n in (-2, 0, 1)])
    np.testing.assert_allclose(coverage(turns), 1.0, atol=1e-3)
    assert coverage(np.float32(GOAL + [0.17, 0.0, 0.0])) == 0.0


def test_gradients_of_coverage_and_distance_are_finite_everywhere():
    poses = jnp.float32([*poses_near_goal(20), GOAL])
    for function in (coverage, goal_distance):
        gradient = jax.vmap(jax.grad(function))(poses)
        assert np.isfinite(np.asarray(gradient)).all()


def test_the_distance_to_the_goal_is_the_mean_way_of_the_ts_points():
    points = points_of_t(0.001)
    at_goal = turned(points, GOAL[2]) + GOAL[:2]
    for pose in poses_near_goal(10, seed=1):
        way = turned(points, pose[2]) + pose[:2] - at_goal
        expected = np.sqrt((way**2).sum(-1).mean())
        found = goal_distance(np.float32(pose))
        np.testing.assert_allclose(found, expected, rtol=0.01, atol=1e-5)


def test_the_gap_is_the_distance_to_the_nearest_point_of_the_t():
    scene = scenes(40)
    for pose, peg in zip(scene.block_pose[:, 0], scene.peg):
        local = turned(np.float64(peg - pose[:2]), -pose[2])
        found = t_gap(pose, peg)
        assert (found < 0) == in_t(local) or abs(found) < 1e-5
        if found > 0:
            expected = nearest(np.float64(pose), np.float64(peg))
            np.testing.assert_allclose(found, expected, atol=0.0008)


def angle_between(v, w):
    return np.abs(np.angle(np.exp(1j * (np.arctan2(*v[::-1]) - np.arctan2(*w[::-1])))))


def nearest(pose, peg):
    """Distance from the peg's centre to the nearest of many points of the T."""
    local = turned(peg - pose[:2], -pose[2])
    return np.linalg.norm(points_of_t(0.0005) - local, axis=-1).min()


def wrapped(angle):
    return np.angle(np.exp(1j * angle))


def true_answer(kind, args, now, then):
    """The answer to a question by its definition; scenes as (pose, peg)."""
    (before, _), (after, peg) = now, then
    moved, turn = after[:2] - before[:2], wrapped(after[2] - before[2])
    far = lambda pose: float(goal_distance(np.float32(pose)))  # tested by itself
    off = lambda pose: abs(wrapped(GOAL[2] - pose[2]))
    way = np.pi / 4 * args[1]
    way = np.sin(way), np.cos(way)
    limit, ten = np.radians(30), np.radians(10)
    answer = {
        "t_touching": lambda: nearest(*then) < geometry.PEG_RADIUS + 0.005,
        "t_side": lambda: angle_between(peg - after[:2], way) < limit,
        "t_approached": lambda: nearest(*now) - nearest(*then) > 0.01,
        "t_moved": lambda: np.linalg.norm(moved) > 0.01,
        "t_moved_direction": lambda: (
            np.linalg.norm(moved) > 0.01 and angle_between(moved, way) < limit
        ),
        "t_turned": lambda: (turn if args[1] == 0 else -turn) > ten,
        "t_turned_to_goal": lambda: off(before) - off(after) > ten,
        "t_closer": lambda: far(before) - far(after) > 0.01,
        "t_at_goal": lambda: counted_coverage(after) > 0.95,
        "t_goal_distance": lambda: np.abs(100 * far(after) - CENTIMETRES).argmin(),
    }
    return answer[kind]()


@pytest.mark.parametrize("kind", LANGUAGE.types, ids=lambda kind: kind.name)
def test_rules_agree_with_their_definitions(kind):
    before, after = scenes(40, seed=2), scenes(40, seed=3)
    # Half of the changes are small, as those of a few actions are.
    small = Scene(
        before.block_pose[:20] + 0.15 * (after.block_pose - before.block_pose)[:20],
        before.block_id[:20],
        before.peg[:20] + 0.15 * (after.peg - before.peg)[:20],
    )
    after = jax.tree.map(lambda a, b: np.concatenate([a, b[20:]]), small, after)
    edges = np.array(kind.answers.edges)
    seen = set()
    for args in kind.rows([0]):
        ids = np.full(40, kind.id, np.int32)
        margin = LANGUAGE.margin(ids, np.tile(args, (40, 1)), before, after)
        answers = LANGUAGE.index(ids, margin)
        for i in range(40):
            if np.abs(margin[i] - edges).min() < 0.001:
                continue  # the definitions count points
            now, then = (
                (np.float64(s.block_pose[i, 0]), np.float64(s.peg[i]))
                for s in (before, after)
            )
            if any(in_t(turned(peg - pose[:2], -pose[2])) for pose, peg in (now, then)):
                continue  # no peg stands within the T
            assert answers[i] == true_answer(kind.name, args, now, then), (args, i)
            seen.add(int(answers[i]))
    assert len(seen) > 1


def test_at_the_goal_and_won_are_the_same():
    scene = scenes(200, seed=5)
    asked = LANGUAGE.question("t_at_goal", "T")
    ids, args = np.full(200, asked.type_id), np.tile(asked.args, (200, 1))
    yes = LANGUAGE.margin(ids, args, scene, scene) > 0
    won = np.asarray(task_success("push_t", scene))
    assert 0 < won.sum() < 200
    np.testing.assert_array_equal(yes, won)
    task = make_task("push_t", 0, worlds.load("pusht").env.settings())
    assert task.task == "push_t:T" and task.max_steps == 300


def test_every_wording_reads_back_and_fits_the_shipped_tokenizer():
    """16 tokens hold any question; words that training of it never saw are spelled."""
    tokenizer = Tokenizer.load("tiny")
    every = [kind.name for kind in LANGUAGE.types]
    table = LANGUAGE.table([0], every)
    for i in range(len(table)):
        for phrasing in range(LANGUAGE.phrasings):
            asked = table.question(i, phrasing)
            assert LANGUAGE.parse(asked.text) == asked
            assert LANGUAGE.parse(asked.text.lower()) == asked
            ids = tokenizer.encode(asked.text)
            assert len(ids) <= 16, asked.text
            assert 3 not in ids, asked.text  # unknown
