"""A replan moves nothing between host and device."""

import jax
import jax.numpy as jnp
from test_planning_planners import TARGET, asked, wanted

from swm_jax.models import Observation
from swm_jax.planning import FakeWorldModel, get_planner

SMALL = {"candidates": 8, "iterations": 2}


def arguments(planner, scenes=2):
    return (
        FakeWorldModel(goal=jnp.array(TARGET)),
        Observation(image=jnp.zeros((scenes, 8, 8, 3), jnp.uint8)),
        asked(scenes),
        wanted(scenes),
        planner.init_state(scenes),
        jax.random.split(jax.random.key(0), scenes),
    )


def test_a_compiled_replan_moves_nothing_between_host_and_device():
    planner = get_planner("cem", **SMALL)
    given = jax.device_put(arguments(planner))
    first, _, _ = planner.plan(*given)
    with jax.transfer_guard("disallow"):
        again, _, _ = planner.plan(*given)
    assert (first == again).all()
