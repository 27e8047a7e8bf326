"""Goals of Push-T.

push_t  "published" is the benchmark's condition, T at the goal; "shaped" adds questions
        about progress: the peg near the T, the T closer to the goal and turned to it.
"""

from swm_jax.questions.goal import Goal, make_goal
from swm_jax.questions.task_goals import Goals, TaskGoal
from swm_jax.worlds.pusht.questions import LANGUAGE


def _push_t(names, weights, *, scene, **_) -> Goal:
    items = [(LANGUAGE.question(kind, *names), "yes", w) for kind, w in weights.items()]
    return make_goal(items, None if scene is None else scene.block_id)


GOALS = Goals(
    {
        "push_t": TaskGoal(
            (1, 1),
            {
                "published": {"t_at_goal": 1.0},
                "shaped": {
                    "t_at_goal": 1.0,
                    "t_closer": 0.5,
                    "t_turned_to_goal": 0.2,
                    "t_touching": 0.1,
                },
            },
            _push_t,
        )
    }
)
