"""Goals: published weights, shaped questions, and refusal of what is not there."""

import numpy as np
import pytest
from goal_choice import by_table

from swm_jax import worlds
from swm_jax.envs import BLOCK_NAMES
from swm_jax.questions import (
    Goal,
    Stage,
    StagedGoal,
    expand,
    make_goal,
)
from swm_jax.questions.conditional_goals import present_of
from swm_jax.worlds.board.goals import GOALS, goal_for_task, neighbours
from swm_jax.worlds.board.scene import BLOCK_SETS, Scene
from swm_jax.worlds.board.words import DIRECTION_VECTORS

BOARD = worlds.language("board")

NAMES = {
    "reach": ("green star",),
    "separate": ("blue cube", "red moon", "green cube"),
    "block_to_block": ("green cube", "blue moon"),
}


def scene(seed=0, block_set="standard"):
    rng = np.random.default_rng(seed)
    pose = rng.uniform((0.15, -0.3, -3), (0.6, 0.3, 3), (8, 3)).astype(np.float32)
    ids = np.array(BLOCK_SETS[block_set], np.int32)
    return Scene(pose, ids, np.array([0.2, 0.0], np.float32))


@pytest.mark.parametrize(
    "task, texts, answers, weights",
    [
        ("reach", ["Is the peg touching the green star?"], [1], [1.0]),
        (
            "separate",
            [
                "Is the peg touching the blue cube?",
                "Is the blue cube touching the red moon?",
                "Is the blue cube touching the green cube?",
            ],
            [1, 0, 0],
            [0.8, 0.1, 0.1],
        ),
        (
            "block_to_block",
            [
                "Is the green cube touching the blue moon?",
                "Did the green cube get closer to the blue moon?",
            ],
            [1, 1],
            [0.8, 0.2],
        ),
    ],
)
def test_published_goals_have_the_published_weights(task, texts, answers, weights):
    goal = goal_for_task(task, NAMES[task])
    assert [q.text for q in goal.questions] == texts
    assert goal.answers.tolist() == answers
    np.testing.assert_allclose(goal.weights, weights)


@pytest.mark.parametrize("task", GOALS.tasks)
@pytest.mark.parametrize("preset", GOALS.presets)
def test_goals_speak_the_language_of_training(task, preset):
    goal = goal_for_task(task, NAMES[task], preset, scene=scene())
    for asked in goal.questions:
        assert BOARD.parse(asked.text) == asked
    assert goal.describe().count("\n") == len(goal.questions) - 1


@pytest.mark.parametrize("task", GOALS.tasks)
def test_the_number_of_questions_does_not_depend_on_the_scene(task):
    shapes = {
        goal_for_task(task, NAMES[task], "shaped", scene=scene(seed)).answers.shape
        for seed in range(20)
    }
    assert len(shapes) == 1


def margins_of(questions, now):
    """What a world model that knows the scene answers, in logits."""
    type_id = np.array([q.type_id for q in questions])
    args = np.array([q.args for q in questions])
    now = expand(now)
    return np.asarray(BOARD.margin(type_id, args, now, now)) / 0.02


def test_without_a_scene_the_side_follows_from_answers_about_the_present():
    names = NAMES["block_to_block"]
    asked = goal_for_task("block_to_block", names, "shaped")
    assert all(BOARD.parse(q.text) == q for q in asked.present)
    turned = 0.0
    for seed in range(40):
        now = scene(seed)
        goal, _ = by_table(asked, margins_of(asked.present, now))
        a, b = (
            now.block_pose[[BLOCK_NAMES[i] for i in now.block_id].index(name), :2]
            for name in names
        )
        moved = next(q for q in goal.questions if q.type == "block_moved_direction")
        way = DIRECTION_VECTORS[moved.args[1]]
        cosine = way @ (b - a) / np.linalg.norm(b - a)
        assert cosine > np.cos(np.deg2rad(60))
        turned = max(turned, np.rad2deg(np.arccos(min(cosine, 1.0))))
        known = goal_for_task("block_to_block", names, "shaped", scene=now)
        assert len(known.questions) == len(goal.questions)
    assert turned > 0  # the scenes were not all easy ones


def test_a_blind_model_still_gets_some_goal():
    asked = goal_for_task("block_to_block", NAMES["block_to_block"], "shaped")
    for answers in (np.zeros, lambda n: np.full(n, np.nan)):
        assert isinstance(by_table(asked, answers(len(asked.present)))[0], Goal)


def test_stages_follow_one_another_and_come_back():
    goals = [goal_for_task("reach", (name,)) for name in ("red moon", "blue cube")]
    near = goals[0].questions[0]
    staged = StagedGoal((Stage(goals[0], near, threshold=0.9), Stage(goals[1])))
    assert present_of(staged) == (near,)
    logit = lambda p: np.log(p / (1 - p))
    assert by_table(staged, logit(0.89))[0] is goals[0]
    assert by_table(staged, logit(0.91))[0] is goals[1]
    assert by_table(staged, np.nan)[0] is goals[0]
    with pytest.raises(ValueError, match="question that ends it"):
        StagedGoal((Stage(goals[0]), Stage(goals[1])))


def test_shaped_goals_want_the_peg_behind_the_block():
    for seed in range(20):
        now = scene(seed)
        goal = goal_for_task(
            "block_to_block", NAMES["block_to_block"], "shaped", scene=now
        )
        a, b = (
            now.block_pose[[BLOCK_NAMES[i] for i in now.block_id].index(name), :2]
            for name in NAMES["block_to_block"]
        )
        way = (b - a) / np.linalg.norm(b - a)
        behind = now.replace(peg=a - 0.05 * way)
        ahead = now.replace(peg=a + 0.05 * way)
        asked = next(q for q in goal.questions if q.type == "peg_direction")
        args = np.array(asked.args)
        assert BOARD.answer(asked.type_id, args, behind, behind)
        assert not BOARD.answer(asked.type_id, args, ahead, ahead)


def test_weights_of_shaped_goals_can_be_replaced():
    names = NAMES["reach"]
    goal = goal_for_task("reach", names, "shaped", weights={"peg_closer": 0.7})
    assert goal.weights.tolist() == pytest.approx([1.0, 0.7])
    with pytest.raises(ValueError, match="did you mean 'peg_closer'"):
        goal_for_task("reach", names, "shaped", weights={"peg_close": 0.7})


def test_neighbours_come_nearest_first():
    now = scene()
    pose = now.block_pose.copy()
    ids = [BLOCK_NAMES[i] for i in now.block_id]
    pose[:, :2] = np.arange(8)[:, None] * 1.0
    for name, gap in (("red moon", 0.0), ("blue cube", 0.09), ("green star", 0.04)):
        pose[ids.index(name), :2] = (0.3, gap)
    now = now.replace(block_pose=pose.astype(np.float32))
    found = neighbours(now, BLOCK_NAMES.index("red moon"))
    assert found == ("green star", "blue cube")
    assert neighbours(now, BLOCK_NAMES.index("red moon"), 0.05) == ("green star",)


def test_goals_name_only_blocks_that_are_on_the_table():
    unseen = scene(block_set="unseen")
    for task in GOALS.tasks:
        for preset in GOALS.presets:
            either = "|".join(NAMES[task])
            with pytest.raises(ValueError, match=f"({either}).* not on the board"):
                goal_for_task(task, NAMES[task], preset, scene=unseen)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("reech", ("red moon",)), "unknown task 'reech'; did you mean 'reach'"),
        (("reach", ("red moon",), "shape"), "did you mean 'shaped'"),
        (("reach", ("red mon",)), "did you mean 'red moon'"),
        (("reach", ("red moon", "blue cube")), "reach takes 1 name, got 2"),
        (("separate", ("red moon",)), "separate takes 2 to 8 names, got 1"),
    ],
)
def test_impossible_goals_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        goal_for_task(*arguments)


def test_goals_that_cannot_rank_are_refused():
    asked = BOARD.question("peg_moved")
    with pytest.raises(ValueError, match="at least one question"):
        Goal((), np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="not all zero"):
        make_goal([(asked, "yes", 0.0)])
    with pytest.raises(ValueError, match="finite"):
        make_goal([(asked, "yes", float("nan"))])
    with pytest.raises(ValueError, match=r"one of .*'maybe'"):
        make_goal([(asked, "maybe", 1.0)])
    with pytest.raises(ValueError, match="1 answers and weights"):
        Goal((asked,), np.zeros(2), np.ones(2))
