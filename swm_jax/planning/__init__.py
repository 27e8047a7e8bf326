"""Planning with question answering: the world-model protocol and the planners."""

from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.goals.value import GoalArrays, chunk_value, desired_scores
from swm_jax.planning.planner import Planner
from swm_jax.planning.planners import PLANNERS, get_planner
from swm_jax.planning.proposals import Proposals
from swm_jax.planning.protocol import FakeWorldModel, Normalise, WorldModel
from swm_jax.planning.state import PlanInfo, PlannerState, shift

__all__ = [
    "PLANNERS",
    "FakeWorldModel",
    "GoalArrays",
    "Normalise",
    "PlanInfo",
    "Planner",
    "PlannerConfig",
    "PlannerState",
    "Proposals",
    "WorldModel",
    "chunk_value",
    "desired_scores",
    "get_planner",
    "shift",
]
