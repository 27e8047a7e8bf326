"""Goals of the board's tasks, and the choice of a pushing direction from answers.

"shaped" goals guide a planner that starts from noise: reach the block, get behind it,
push it closer. The side behind the block depends on the positions, so the shaped goal
of block_to_block has an option per direction (`sided_goal`), selected by the world
model's own answers about the present; the goal needs no true positions.

Axes: P questions about the present.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from swm_jax.arrays import Array
from swm_jax.envs.scene import BLOCK_NAMES, array_namespace
from swm_jax.questions.conditional_goals import ConditionalGoal
from swm_jax.questions.goal import Goal, make_goal
from swm_jax.questions.task_goals import Goals, TaskGoal
from swm_jax.questions.wordings import DIRECTIONS
from swm_jax.worlds.board.questions import LANGUAGE
from swm_jax.worlds.board.scene import Scene
from swm_jax.worlds.board.words import (
    DIRECTION_VECTORS,
    REGION_POINTS,
    REGIONS,
    nearest_direction,
    opposite,
)

question = LANGUAGE.question

FAR_EVIDENCE = 2.0  # logits that the regions add to the direction they point to


def sided_goal(a: str, b: str, options: Sequence[Goal]) -> ConditionalGoal:
    """A goal for each direction in which block `b` may lie as seen from block `a`.

    Two kinds of questions give evidence for each direction, and the most likely one is
    selected: "on the left side of" is exact but true for near blocks only; the regions
    of the two blocks are coarse but cover the whole board.

    Args:
      a, b: names of the two blocks.
      options: eight goals, one per direction from `a` to `b`.
    """
    sides = [question("block_direction", b, a, d) for d in DIRECTIONS]
    places = [question("block_region", x, r) for x in (a, b) for r in REGIONS]
    return ConditionalGoal((*sides, *places), tuple(options), direction_scores)


def direction_scores(margins: Float[Array, "... 26"]) -> Float[Array, "... 8"]:
    """Evidence for each direction, from eight sides and twice nine regions."""
    xp = array_namespace(margins)
    near, regions = len(DIRECTIONS), len(REGIONS)
    here = margins[..., near : near + regions]
    way = _expected_place(margins[..., near + regions :]) - _expected_place(here)
    length = xp.sqrt((way * way).sum(-1, keepdims=True))
    far = way / xp.maximum(length, 1e-6) @ xp.asarray(DIRECTION_VECTORS).T
    return margins[..., :near] + FAR_EVIDENCE * far


def _expected_place(margins):
    """Expected position: mean of the region points under a softmax of their margins."""
    xp = array_namespace(margins)
    weights = xp.exp(margins - margins.max(-1, keepdims=True))
    return weights @ xp.asarray(REGION_POINTS) / weights.sum(-1, keepdims=True)


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


def _reach(names, weights, *, scene, **_) -> Goal:
    items = [(question(kind, *names), "yes", w) for kind, w in weights.items()]
    return make_goal(items, _block_ids(scene))


def _separate(names, weights, *, scene, **_) -> Goal:
    target, others = names[0], names[1:]
    items = []
    for kind, weight in weights.items():
        if kind == "neighbours_touching":
            beside = [question("block_touching", target, other) for other in others]
            items += [(asked, "no", weight / len(others)) for asked in beside]
        elif kind == "neighbours_apart":
            apart = [question("blocks_apart", target, other) for other in others]
            items += [(asked, "yes", weight / len(others)) for asked in apart]
        else:
            items.append((question(kind, target), "yes", weight))
    return make_goal(items, _block_ids(scene))


def _block_to_block(names, weights, *, scene, **_) -> Goal | ConditionalGoal:
    on_board = _block_ids(scene)
    if "peg_behind" not in weights:
        items = [(question(kind, *names), "yes", w) for kind, w in weights.items()]
        return make_goal(items, on_board)
    options = [make_goal(_push(names, way, weights), on_board) for way in range(8)]
    if scene is None:
        first, second = names
        return sided_goal(first, second, options)
    a, b = (_position(scene, BLOCK_NAMES.index(name)) for name in names)
    return options[nearest_direction(b - a)]


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


def _block_ids(scene):
    return None if scene is None else scene.block_id


# Weights by task and preset, easy to tune.
GOALS = Goals(
    {
        "reach": TaskGoal(
            (1, 1),
            {
                "published": {"peg_touching": 1.0},
                "shaped": {"peg_touching": 1.0, "peg_closer": 0.3},
            },
            _reach,
        ),
        "separate": TaskGoal(  # the block, then the neighbours to part from
            (2, 8),
            {
                "published": {"peg_touching": 0.8, "neighbours_touching": 0.2},
                "shaped": {
                    "peg_touching": 0.4,
                    "neighbours_apart": 1.0,
                    "block_moved": 0.3,
                    "peg_closer": 0.2,
                },
            },
            _separate,
        ),
        "block_to_block": TaskGoal(  # the block that moves, the block it goes to
            (2, 2),
            {
                "published": {"block_touching": 0.8, "blocks_closer": 0.2},
                "shaped": {
                    "block_touching": 1.0,
                    "blocks_closer": 0.6,
                    "peg_touching": 0.2,
                    "peg_behind": 0.4,
                    "moved_towards": 0.3,
                },
            },
            _block_to_block,
        ),
    }
)
goal_for_task = GOALS.make
