"""Planning on answers: the world-model protocol and the planners that use it."""

from swm_jax.planning.fake import FakeWorldModel
from swm_jax.planning.planner import PLANNERS, Planner, get_planner
from swm_jax.planning.protocol import Normalise, WorldModel
from swm_jax.planning.search import PlanInfo, PlannerConfig, PlannerState, shift
from swm_jax.planning.value import GoalArrays, chunk_value, desired_scores

__all__ = [
    "PLANNERS",
    "FakeWorldModel",
    "GoalArrays",
    "Normalise",
    "PlanInfo",
    "Planner",
    "PlannerConfig",
    "PlannerState",
    "WorldModel",
    "chunk_value",
    "desired_scores",
    "get_planner",
    "shift",
]
