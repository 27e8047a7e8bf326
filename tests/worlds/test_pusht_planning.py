"""Push-T in closed loop: with the simulator as its world model a planner solves it."""

import jax
from test_pusht_questions import counted_coverage

from swm_jax import worlds
from swm_jax.baselines.simulator import SimulatorWorldModel
from swm_jax.eval.episodes.host_loop import run_episodes
from swm_jax.planning import get_planner

WORLD = worlds.load("pusht")


def episode(planner, max_steps):
    """An episode whose T begins away from its goal."""
    env = WORLD.make_env("mujoco")
    arguments = env, [("push_t", 5007)], SimulatorWorldModel(env)
    (result,) = run_episodes(
        *arguments,
        WORLD.make_planner(planner),
        jax.random.key(0),
        parallel=1,
        max_steps=max_steps,
    )
    pose = result.scenes.block_pose[:, 0]
    return result, counted_coverage(pose[0]), counted_coverage(pose[-1])


def test_a_search_in_the_simulator_covers_the_goal():
    result, before, after = episode("cem", max_steps=150)
    assert before < 0.1
    assert result.success and after > 0.945  # counted points: to half a per cent
    assert abs(result.actions).max() <= WORLD.make_planner("cem").config.action_limit


def test_random_actions_do_not():
    result, _, after = episode("random", max_steps=150)
    assert not result.success and result.steps == 150 and after < 0.5


def test_searches_of_push_t_may_be_finer_than_a_millimetre_and_published_ones_stay():
    for name in ("mppi", "cem"):
        fine = WORLD.make_planner(name).config.min_std
        assert fine < 0.0025 < get_planner(name).config.min_std
    for name in ("mppi_published", "icem"):
        assert WORLD.make_planner(name).config == get_planner(name).config
