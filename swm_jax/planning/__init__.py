"""Planning on answers: the world-model protocol and the planners that use it."""

from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.fake import FakeWorldModel
from swm_jax.planning.planner import Planner
from swm_jax.planning.presets import PLANNERS, get_planner, planner_names
from swm_jax.planning.proposals import Proposals
from swm_jax.planning.protocol import Normalise, WorldModel
from swm_jax.planning.state import PlanInfo, PlannerState, shift
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
    "Proposals",
    "WorldModel",
    "chunk_value",
    "desired_scores",
    "get_planner",
    "planner_names",
    "shift",
]
