"""Goals: what a planner wants to hear, and what the published tasks want.

A goal lists questions with the desired answers and their weights. Preset
"published" has the questions and weights of the Semantic World Models paper;
"shaped" adds questions in the same language that guide a planner which starts from
noise instead of a base policy: get to the block, get behind it, bring it nearer. The
number of questions of a preset depends only on the task and the number of names,
never on the scene, so that nothing recompiles.

A goal may depend on what is true now: `SidedGoal` (and `stages.StagedGoal`) list
questions about the `present`, and `given` their answers they return the `Goal` to
plan for. Whoever plans asks its own world model, so no goal needs to be told where
things are.

Axes: Q questions of a goal, P questions about the present.
"""

import difflib
from collections.abc import Sequence

import numpy as np

from swm_jax.choices import known as known_name
from swm_jax.envs.scene import BLOCK_NAMES, AnyScene, Scene
from swm_jax.questions.cube_goals import CUBE_TASKS, CUBE_WEIGHTS, cube_goal
from swm_jax.questions.goal import make_goal
from swm_jax.questions.sided import SidedGoal
from swm_jax.worlds.board.questions import LANGUAGE
from swm_jax.worlds.board.words import DIRECTIONS, nearest_direction, opposite

question = LANGUAGE.question

TASKS = ("reach", "separate", "block_to_block")
DOMAIN_TASKS = {"board": TASKS, "cube": CUBE_TASKS}
PRESETS = ("published", "shaped")


_NAME_COUNTS = {  # names that a task takes: at least, at most
    ("board", "reach"): (1, 1),
    ("board", "separate"): (2, 8),
    ("board", "block_to_block"): (2, 2),
    ("cube", "reach"): (1, 1),
    ("cube", "lift"): (1, 1),
    ("cube", "stack"): (2, 2),
}

# Weights of the questions that "shaped" adds, by task; easy to tune.
SHAPED_WEIGHTS = {
    "reach": {"peg_touching": 1.0, "peg_closer": 0.3},
    "separate": {
        "peg_touching": 0.4,
        "neighbours_apart": 1.0,
        "block_moved": 0.3,
        "peg_closer": 0.2,
    },
    "block_to_block": {
        "block_touching": 1.0,
        "blocks_closer": 0.6,
        "peg_touching": 0.2,
        "peg_behind": 0.4,
        "moved_towards": 0.3,
    },
}


def goal_for_task(
    task: str,
    names: Sequence[str],
    preset: str = "published",
    scene: AnyScene | None = None,
    weights: dict[str, float] | None = None,
    domain: str = "board",
):
    """The goal of a task of the benchmark: a Goal, SidedGoal or StagedGoal.

    Args:
      task: of the board: "reach" (names: the block), "separate" (the block, then
        the neighbours to part from), "block_to_block" (the block that moves, the
        block it goes to); of the cube arm: "reach", "lift" (the cube), "stack" (the
        cube, the one it goes on).
      names: block names, as "red moon".
      preset: "published" or "shaped".
      scene: the present scene (one, no batch axes). Names the blocks on the board;
        "shaped" block_to_block reads off it which side to push on, and leaves the
        two questions about sides out without it; make a new goal as blocks move.
      weights: replaces some of `SHAPED_WEIGHTS[task]`, or of the cube arm's
        `CUBE_WEIGHTS[task][preset]`.
      domain: "board" or "cube".

    Raises:
      ValueError: an unknown task, preset or name, too few names, a block that is not
        on the board.
    """
    tasks = DOMAIN_TASKS[known_name("domain", domain, DOMAIN_TASKS)]
    for kind, value, known in (("task", task, tasks), ("preset", preset, PRESETS)):
        if value not in known:
            near = difflib.get_close_matches(value, known, 1, 0.3) or known
            raise ValueError(f"unknown {kind} {value!r}, did you mean {near[0]!r}?")
    names = tuple(names)
    expected = _NAME_COUNTS[domain, task]
    if not expected[0] <= len(names) <= expected[1]:
        low, high = expected
        count = (
            f"{low} to {high} names" if low < high else f"{low} name" + "s" * (low > 1)
        )
        raise ValueError(f"{task} takes {count}, got {len(names)}: {list(names)}")
    cube = domain == "cube"
    offered = CUBE_WEIGHTS[task][preset] if cube else SHAPED_WEIGHTS[task]
    for key in weights or {}:
        known = tuple(offered)
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.3) or known
            raise ValueError(
                f"unknown weight {key!r} of {task}, did you mean {near[0]!r}?"
            )
    on_board = None if scene is None else np.asarray(scene.block_id)
    if cube:
        return cube_goal(task, names, preset, on_board, weights)
    weights = {**offered, **(weights or {})}
    if task == "block_to_block" and preset == "shaped":
        options = tuple(
            make_goal(_push(names, towards, weights), on_board) for towards in range(8)
        )
        if scene is None:
            return SidedGoal(*names, options)
        a, b = (_position(scene, BLOCK_NAMES.index(name)) for name in names)
        return options[nearest_direction(b - a)]
    return make_goal(_TASK_ITEMS[task](names, preset, weights), on_board)


def neighbours(scene: Scene, block: int, radius: float = 0.1) -> tuple[str, ...]:
    """Names of the blocks within `radius` metres of a block, nearest first."""
    pose, ids = np.asarray(scene.block_pose), np.asarray(scene.block_id)
    distance = np.linalg.norm(pose[:, :2] - _position(scene, block), axis=-1)
    order = [slot for slot in np.argsort(distance) if ids[slot] != block]
    return tuple(BLOCK_NAMES[ids[s]] for s in order if distance[s] < radius)


def _position(scene, block):
    ids = np.asarray(scene.block_id)
    if block not in ids:
        raise ValueError(
            f"the {BLOCK_NAMES[block]} is not on the board: "
            f"{', '.join(BLOCK_NAMES[i] for i in ids)}"
        )
    return np.asarray(scene.block_pose)[list(ids).index(block), :2]


def _reach(names, preset, weights):
    touch = question("peg_touching", names[0])
    if preset == "published":
        return [(touch, "yes", 1.0)]
    return [
        (touch, "yes", weights["peg_touching"]),
        (question("peg_closer", names[0]), "yes", weights["peg_closer"]),
    ]


def _separate(names, preset, weights):
    target, others = names[0], names[1:]
    touch = question("peg_touching", target)
    if preset == "published":
        beside = [question("block_touching", target, other) for other in others]
        share = 0.2 / len(others)
        return [(touch, "yes", 0.8), *((q, "no", share) for q in beside)]
    apart = [question("blocks_apart", target, other) for other in others]
    share = weights["neighbours_apart"] / len(others)
    return [
        (touch, "yes", weights["peg_touching"]),
        *((q, "yes", share) for q in apart),
        (question("block_moved", target), "yes", weights["block_moved"]),
        (question("peg_closer", target), "yes", weights["peg_closer"]),
    ]


def _block_to_block(names, preset, weights):
    del preset, weights  # published; what "shaped" adds depends on the direction
    return [
        (question("block_touching", *names), "yes", 0.8),
        (question("blocks_closer", *names), "yes", 0.2),
    ]


def _push(names, towards, weights):
    """Shaped block_to_block: push the first block in a direction."""
    behind = DIRECTIONS[opposite(towards)]
    moved = question("block_moved_direction", names[0], DIRECTIONS[towards])
    return [
        (question("block_touching", *names), "yes", weights["block_touching"]),
        (question("blocks_closer", *names), "yes", weights["blocks_closer"]),
        (question("peg_touching", names[0]), "yes", weights["peg_touching"]),
        (question("peg_direction", names[0], behind), "yes", weights["peg_behind"]),
        (moved, "yes", weights["moved_towards"]),
    ]


_TASK_ITEMS = {
    "reach": _reach,
    "separate": _separate,
    "block_to_block": _block_to_block,
}
