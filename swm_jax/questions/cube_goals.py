"""Goals of the cube arm's tasks.

reach  get closer, touch
lift   stage 1 grasp; stage 2 lift, holding
stack  stage 1 grasp; stage 2 put on top. "published" keeps holding; "shaped" lets go
       once it lies there, as success demands

Stages of "published" latch, those of "shaped" come back (see `stages`).

Source of "published": Semantic World Models, except for lift, which is ours.
"""

from collections.abc import Sequence

from swm_jax.questions.goal import Goal, make_goal
from swm_jax.questions.stages import Stage, StagedGoal
from swm_jax.worlds.cube.questions import LANGUAGE

question = LANGUAGE.question

# Weights by task and preset, easy to tune.
CUBE_WEIGHTS = {
    "reach": {
        "published": {"closer": 1.0, "touching": 1.0},
        "shaped": {"closer": 0.3, "touching": 1.0},
    },
    "lift": {
        "published": {"grasped": 1.0, "lifted": 0.6, "held": 0.4},
        "shaped": {"grasped": 1.0, "lifted": 0.6, "held": 0.4},
    },
    "stack": {
        "published": {"grasped": 1.0, "on_top": 0.6, "held": 0.4},
        "shaped": {"grasped": 1.0, "on_top": 1.0, "let_go": 0.3},
    },
}
CUBE_TASKS = tuple(CUBE_WEIGHTS)
PRESET_RULES = {"published": "latch", "shaped": "hysteresis"}


def cube_goal(
    task: str,
    names: Sequence[str],
    preset: str,
    block_ids=None,
    weights: dict[str, float] | None = None,
    rule: str | None = None,
) -> Goal | StagedGoal:
    """The goal of a task.

    Args:
      task: one of `CUBE_TASKS`.
      names: the cube, for "stack" also the one to put it on.
      preset: "published" or "shaped".
      block_ids: ids of the cubes on the table, to refuse questions about others.
      weights: replaces some of `CUBE_WEIGHTS[task][preset]`.
      rule: of the stages, see `stages.STAGE_RULES`; None: the preset's.
    """
    w = {**CUBE_WEIGHTS[task][preset], **(weights or {})}
    top = names[0]
    if task == "reach":
        items = [
            (question("gripper_closer", top), "yes", w["closer"]),
            (question("gripper_touching", top), "yes", w["touching"]),
        ]
        return make_goal(items, block_ids)
    grasped = question("cube_grasped", top)
    if task == "lift":
        last = [
            (question("cube_lifted", top), "yes", w["lifted"]),
            (grasped, "yes", w["held"]),
        ]
    else:
        last = [(question("cube_on_top", *names), "yes", w["on_top"])]
        if "held" in w:
            last.append((grasped, "yes", w["held"]))
        if "let_go" in w:
            last.append((question("gripper_touching", top), "no", w["let_go"]))
    first = make_goal([(grasped, "yes", w["grasped"])], block_ids)
    stages = (Stage(first, done=grasped), Stage(make_goal(last, block_ids)))
    return StagedGoal(stages, rule or PRESET_RULES[preset])
