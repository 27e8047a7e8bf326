"""Goals of the cube world's tasks.

reach  get closer, touch
lift   stage 1 grasp; stage 2 lift while holding
stack  stage 1 grasp; stage 2 put on top. "published" keeps holding; "shaped" releases
       the placed cube, which success requires

Stages of "published" latch, those of "shaped" may go back (see `conditional_goals`).

Source of "published": Semantic World Models, except for lift, which is ours.
"""

from swm_jax.questions.conditional_goals import Stage, StagedGoal
from swm_jax.questions.goal import Goal, make_goal
from swm_jax.questions.task_goals import Goals, TaskGoal
from swm_jax.worlds.cube.questions import LANGUAGE

question = LANGUAGE.question
RULES = {"published": "latch", "shaped": "hysteresis"}


def _reach(names, weights, *, scene, **_) -> Goal:
    items = [
        (question("gripper_closer", *names), "yes", weights["closer"]),
        (question("gripper_touching", *names), "yes", weights["touching"]),
    ]
    return make_goal(items, _block_ids(scene))


def _lift(names, weights, *, scene, **options) -> StagedGoal:
    grasped = question("cube_grasped", *names)
    last = [
        (question("cube_lifted", *names), "yes", weights["lifted"]),
        (grasped, "yes", weights["held"]),
    ]
    return _grasp_first(grasped, weights["grasped"], last, scene, **options)


def _stack(names, weights, *, scene, **options) -> StagedGoal:
    top = names[0]
    grasped = question("cube_grasped", top)
    last = [(question("cube_on_top", *names), "yes", weights["on_top"])]
    if "held" in weights:
        last.append((grasped, "yes", weights["held"]))
    if "let_go" in weights:
        last.append((question("gripper_touching", top), "no", weights["let_go"]))
    return _grasp_first(grasped, weights["grasped"], last, scene, **options)


def _grasp_first(grasped, weight, last, scene, *, rule, preset) -> StagedGoal:
    block_ids = _block_ids(scene)
    first = make_goal([(grasped, "yes", weight)], block_ids)
    stages = (Stage(first, done=grasped), Stage(make_goal(last, block_ids)))
    return StagedGoal(stages, rule or RULES[preset])


def _block_ids(scene):
    return None if scene is None else scene.block_id


GOALS = Goals(
    {
        "reach": TaskGoal(
            (1, 1),
            {
                "published": {"closer": 1.0, "touching": 1.0},
                "shaped": {"closer": 0.3, "touching": 1.0},
            },
            _reach,
        ),
        "lift": TaskGoal(
            (1, 1),
            {
                "published": {"grasped": 1.0, "lifted": 0.6, "held": 0.4},
                "shaped": {"grasped": 1.0, "lifted": 0.6, "held": 0.4},
            },
            _lift,
        ),
        "stack": TaskGoal(
            (2, 2),
            {
                "published": {"grasped": 1.0, "on_top": 0.6, "held": 0.4},
                "shaped": {"grasped": 1.0, "on_top": 1.0, "let_go": 0.3},
            },
            _stack,
        ),
    }
)
goal_for_task = GOALS.make
