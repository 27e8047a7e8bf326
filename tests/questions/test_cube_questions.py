"""The cube arm's questions: distances between boxes, signs, words, goals."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goal_choice import by_table
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from swm_jax import worlds
from swm_jax.envs import BLOCK_NAMES
from swm_jax.questions import (
    Question,
    StagedGoal,
    expand,
    vocabulary,
)
from swm_jax.questions.conditional_goals import options_of, present_of
from swm_jax.worlds.cube import geometry as geometry
from swm_jax.worlds.cube.goals import goal_for_task
from swm_jax.worlds.cube.overlap import box_gap, finger_boxes
from swm_jax.worlds.cube.scene import CUBES, CubeScene

BOARD, CUBE = worlds.language("board"), worlds.language("cube")
TABLE = CUBE.table(CUBES)
margin_in_jax = jax.jit(CUBE.margin)  # one for all examples


def scene_of(cubes, gripper=(0.3, -0.3, 0.3, 0.0, 0.04, 0.04), turns=None) -> CubeScene:
    pose = np.zeros((len(cubes), 7), np.float32)
    pose[:, :3] = cubes
    turns = Rotation.identity(len(cubes)) if turns is None else turns
    pose[:, 3:] = np.roll(turns.as_quat(), 1, axis=-1)  # w first
    return CubeScene(
        pose, np.int32(CUBES[: len(cubes)]), np.asarray(gripper, np.float32)
    )


def margin(kind, names, before, after=None):
    one = CUBE.question(kind, *names)
    after = before if after is None else after
    return float(CUBE.margin(np.array(one.type_id), np.array(one.args), before, after))


def true_gap(centres, turns, halves) -> float:
    """Distance of two boxes in float64: a convex problem over a point of each."""
    low, high = -np.concatenate(halves), np.concatenate(halves)
    point = lambda x, i: centres[i] + turns[i] @ x[3 * i : 3 * i + 3]
    cost = lambda x: ((point(x, 0) - point(x, 1)) ** 2).sum()
    slope = lambda x: np.concatenate(
        [
            2 * sign * turns[i].T @ (point(x, 0) - point(x, 1))
            for i, sign in ((0, 1), (1, -1))
        ]
    )
    exact = {"ftol": 1e-16, "gtol": 1e-12}  # the defaults stop at 0.1 mm
    best = minimize(
        cost, np.zeros(6), jac=slope, bounds=list(zip(low, high)), options=exact
    )
    return float(np.sqrt(best.fun))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.integers(0, 10**6))
def test_box_gap_has_the_true_sign_and_never_exceeds_the_true_distance(seed):
    rng = np.random.default_rng(seed)
    centres = np.stack([np.zeros(3), rng.normal(0, 0.03, 3)])
    turns = Rotation.random(2, random_state=seed).as_matrix()
    halves = rng.uniform(0.005, 0.03, (2, 3))
    given = [
        (c.astype(np.float32), t.astype(np.float32)) for c, t in zip(centres, turns)
    ]
    found = float(box_gap(*given[0], halves[0], *given[1], halves[1]))
    exact = true_gap(centres, turns, halves)
    if exact > 1e-4:
        assert 0 < found <= exact + 1e-5
        assert found > exact / 3**0.5 - 1e-5  # corners: three axes share the way
    elif found > 0:
        assert found < 2e-4


def test_box_gap_is_exact_between_faces():
    up = np.eye(3, dtype=np.float32)
    half = (0.02, 0.02, 0.02)
    at = lambda *x: np.array(x, np.float32)
    gap = box_gap(at(0, 0, 0), up, half, at(0.05, 0.01, 0), up, half)
    assert gap == pytest.approx(0.01, abs=1e-7)
    turned = Rotation.from_euler("z", 45, degrees=True).as_matrix().astype(np.float32)
    gap = box_gap(at(0, 0, 0), up, half, at(0.06, 0, 0), turned, half)
    assert gap == pytest.approx(0.06 - 0.02 - 0.02 * 2**0.5, abs=1e-6)


def test_gripper_closer_is_yes_when_the_gripper_came_closer():
    """The published labels had the sign wrong."""
    cube = [(0.4, 0.0, 0.02)]
    far, near = (scene_of(cube, (0.4, 0.0, z, 0, 0.04, 0.04)) for z in (0.30, 0.25))
    assert margin("gripper_closer", ["red cube"], far, near) > 0
    assert margin("gripper_closer", ["red cube"], near, far) < 0
    assert margin("gripper_closer", ["red cube"], far, far) < 0
    slightly = scene_of(cube, (0.4, 0.0, 0.286, 0, 0.04, 0.04))  # 0.014 m: too little
    assert margin("gripper_closer", ["red cube"], far, slightly) < 0
    enough = scene_of(cube, (0.4, 0.0, 0.284, 0, 0.04, 0.04))
    value = margin("gripper_closer", ["red cube"], far, enough)
    assert value == pytest.approx(0.001, abs=1e-6)


def test_cubes_closer_is_yes_when_the_cubes_came_closer():
    far = scene_of([(0.4, 0.0, 0.02), (0.4, 0.2, 0.02)])
    near = scene_of([(0.4, 0.05, 0.02), (0.4, 0.2, 0.02)])
    for names in (["red cube", "blue cube"], ["blue cube", "red cube"]):
        assert margin("cubes_closer", names, far, near) == pytest.approx(0.035)
        assert margin("cubes_closer", names, near, far) < 0


def test_on_top_has_an_order_and_needs_contact_and_support():
    names = ["red cube", "blue cube"]
    below = (0.4, 0.0, 0.02)
    on = scene_of([(0.41, 0.0, 0.06), below])
    assert margin("cube_on_top", names, on) > 0
    assert margin("cube_on_top", names[::-1], on) < 0
    for elsewhere in ((0.4, 0.0, 0.063), (0.425, 0.0, 0.0599), (0.4399, 0, 0.037)):
        assert margin("cube_on_top", names, scene_of([elsewhere, below])) < 0
    on_its_side = Rotation.from_euler("xyz", [[0, 0, 0], [90, 0, 30]], degrees=True)
    on = scene_of([(0.41, 0, 0.06), below], turns=on_its_side)
    assert margin("cube_on_top", names, on) > 0


def test_grasped_needs_both_fingers_at_the_sides():
    cube = [(0.4, 0.0, 0.02)]
    held = (0.4, 0.0, 0.02, 0.0, 0.0199, 0.0199)
    assert margin("cube_grasped", ["red cube"], scene_of(cube, held)) > 0
    for hand in (
        (0.4, 0.0, 0.02, 0.0, 0.0199, 0.03),  # one finger off
        (0.4, 0.0, 0.054, 0.0, 0.0, 0.0),  # closed, standing on the cube
        (0.4, 0.0, 0.054, 0.0, 0.01, 0.01),  # both fingers on its top
        (0.4, 0.03, 0.02, 0.0, 0.0, 0.0),  # closed, beside the cube
        (0.4, 0.0, 0.05, 0.0, 0.0199, 0.0199),  # by its upper edge only
    ):
        assert margin("cube_grasped", ["red cube"], scene_of(cube, hand)) < 0, hand


def test_margins_show_the_way_to_grasp_and_to_stack():
    """A planner on slopes: nearer poses are worth more."""
    cube = [(0.4, 0.0, 0.02)]
    heights = [0.3, 0.2, 0.1, 0.05, 0.02]
    path = [scene_of(cube, (0.4, 0.0, z, 0, 0.04, 0.04)) for z in heights]
    path += [scene_of(cube, (0.4, 0.0, 0.02, 0, g, g)) for g in (0.03, 0.022, 0.0199)]
    values = [margin("cube_grasped", ["red cube"], each) for each in path]
    assert (np.diff(values) > 0).all() and values[-1] > 0 > values[-2]
    way = [(0.3, 0, 0.02), (0.3, 0, 0.05), (0.35, 0, 0.08), (0.4, 0, 0.07)]
    way.append((0.4, 0, 0.06))
    values = [
        margin("cube_on_top", ["red cube", "blue cube"], scene_of([x, (0.4, 0, 0.02)]))
        for x in way
    ]
    assert (np.diff(values) > 0).all() and values[-1] > 0 > values[-2]


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 10**6))
def test_margins_are_finite_and_the_same_in_numpy_and_jax(seed):
    rng = np.random.default_rng(seed)
    cubes = rng.uniform([0.3, -0.3, 0.02], [0.5, 0.3, 0.2], (2, 4, 3))
    scenes = [
        scene_of(
            each,
            (*rng.uniform(0.25, 0.35, 3), rng.normal(), *rng.uniform(0, 0.04, 2)),
            Rotation.random(4, random_state=seed + i),
        )
        for i, each in enumerate(cubes)
    ]
    here = CUBE.margin(TABLE.type_id, TABLE.args, *map(expand, scenes))
    there = margin_in_jax(
        jnp.asarray(TABLE.type_id), jnp.asarray(TABLE.args),
        *(jax.tree.map(jnp.asarray, expand(s)) for s in scenes),
    )  # fmt: skip
    assert here.shape == (len(TABLE),) and np.isfinite(here).all()
    np.testing.assert_allclose(here, there, atol=2e-5)


def test_a_cube_that_is_not_there_and_the_boards_questions_have_no_answer():
    scene = scene_of([(0.4, 0.0, 0.02)])
    assert np.isnan(margin("cube_grasped", ["green cube"], scene))
    assert np.isnan(margin("cubes_touching", ["red cube", "green cube"], scene))
    asked = BOARD.question("block_touching", "red cube", "green cube")
    assert np.isnan(CUBE.margin(asked.type_id, np.array(asked.args), scene, scene))


def test_ids_of_types_are_kept():
    names = {kind.id: kind.name for kind in CUBE.types}
    assert names == {
        12: "cube_grasped",
        13: "gripper_touching",
        14: "cubes_touching",
        15: "cube_on_top",
        16: "gripper_closer",
        17: "cubes_closer",
        18: "cube_lifted",
    }
    assert not names.keys() & BOARD.by_id.keys()
    assert len(TABLE) == 4 * 4 + 3 * 12
    assert TABLE.type_id.min() == 12


def test_every_wording_is_read_back_in_its_domain():
    for i in range(len(TABLE)):
        for each in TABLE.question(i).phrasings():
            assert CUBE.parse(each.text) == each
            assert len(each.text.split()) <= 14
    shared = "Is the blue cube touching the green cube?"
    assert BOARD.parse(shared).type == "block_touching"
    assert CUBE.parse(shared).type == "cubes_touching"
    with pytest.raises(ValueError, match=r"did you mean 'Is the \{a\} grasped"):
        CUBE.parse("Is the blue cube grabbed?")
    with pytest.raises(ValueError, match=r"unknown world 'cubes'.*did you mean 'cube'"):
        worlds.language("cubes")


def test_the_corpus_of_both_domains_holds_every_word():
    words = set(vocabulary((BOARD, CUBE)))
    assert {"grasped", "gripper", "lifted", "peg", "moon"} <= words
    assert "grasped" not in BOARD.vocabulary()  # the shipped tokenizer's
    said = {w for text in CUBE.corpus() for w in text.replace("?", " ?").split()}
    for i in range(len(TABLE)):
        for each in TABLE.question(i).phrasings():
            assert set(each.text.replace("?", " ?").split()) <= said


def test_goals_of_the_tasks_are_those_of_the_paper():
    def told(goal):
        return [
            (q.type, ("no", "yes")[a], pytest.approx(w))
            for q, a, w in zip(goal.questions, goal.answers, goal.weights)
        ]

    names = ("blue cube", "green cube")
    reach = goal_for_task("reach", names[:1])
    assert told(reach) == [("gripper_closer", "yes", 1), ("gripper_touching", "yes", 1)]
    stack = goal_for_task("stack", names)
    assert isinstance(stack, StagedGoal) and stack.rule == "latch"
    assert told(options_of(stack)[0]) == [("cube_grasped", "yes", 1)]
    want = [("cube_on_top", "yes", 0.6), ("cube_grasped", "yes", 0.4)]
    assert told(options_of(stack)[1]) == want
    assert present_of(stack) == (CUBE.question("cube_grasped", "blue cube"),)
    shaped = goal_for_task("stack", names, "shaped")
    assert ("gripper_touching", "no", 0.3) in told(options_of(shaped)[1])
    with pytest.raises(ValueError, match=r"unknown task 'stak' .did you mean 'stack'"):
        goal_for_task("stak", names)
    with pytest.raises(ValueError, match="stack takes 2 names, got 1"):
        goal_for_task("stack", names[:1])
    scene = scene_of([(0.4, 0.0, 0.02)])
    with pytest.raises(ValueError, match="not on the board: red cube"):
        goal_for_task("reach", ("blue cube",), scene=scene)


def test_a_held_cube_ends_the_first_stage():
    """Sure enough for the published threshold of 0.9, and back when it is dropped."""
    goal = goal_for_task("lift", ("red cube",), "shaped")
    cube = [(0.4, 0.0, 0.02)]
    logit = lambda hand: (
        margin("cube_grasped", ["red cube"], scene_of(cube, hand)) / 0.02
    )
    held = logit((0.4, 0.0, 0.02, 0.0, 0.0199, 0.0199))
    dropped = logit((0.4, 0.0, 0.02, 0.0, 0.03, 0.03))
    assert by_table(goal, held)[1] == 1
    assert by_table(goal, dropped, 1)[1] == 0


def test_fingers_stand_beside_the_pinch_point():
    gripper = np.array([0.4, 0.1, 0.05, np.pi / 2, 0.01, 0.03], np.float32)
    centre, turn = finger_boxes(gripper)
    left, right = (centre - gripper[:3]) @ turn
    width = geometry.FINGER_HALF[1]
    np.testing.assert_allclose(
        left, [0, 0.01 + width, geometry.FINGER_RAISE], atol=1e-7
    )
    np.testing.assert_allclose(
        right, [0, -0.03 - width, geometry.FINGER_RAISE], atol=1e-7
    )
    assert BLOCK_NAMES[CUBES[1]] == "blue cube"
    on_top = CUBE.kind("cube_on_top")
    assert Question(on_top, (CUBES[1], CUBES[0])).text == (
        "Is the blue cube on top of the red cube?"
    )
