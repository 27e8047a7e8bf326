"""Episodes of the cube arm on the device."""

import jax
import numpy as np
import pytest
from test_planning_closed_loop import SMALL, Onlooker

from swm_jax import worlds
from swm_jax.eval import sweep
from swm_jax.eval.config import preset
from swm_jax.eval.episodes.device_program import (
    run_on_device,
    task_arrays,
    tasks_won,
)
from swm_jax.eval.episodes.host_loop import run_episodes
from swm_jax.worlds.cube import tasks as cube_tasks
from swm_jax.worlds.cube.scene import CUBES, CubeScene


def test_tasks_of_the_cube_are_won_on_the_device_as_they_are_on_the_host():
    tasks = [
        cube_tasks.make_task(name, seed=seed)
        for seed in range(4)
        for name in ("reach", "lift", "stack")
    ]
    held = (0.4, 0.0, 0.1, 0.0, 0.0199, 0.0199)
    place = {  # task -> where its cubes are, and the hand: won
        "reach": ([(0.4, 0.0, 0.1)], held),
        "lift": ([(0.4, 0.0, 0.1)], held),
        "stack": ([(0.4, 0.0, 0.06), (0.4, 0.0, 0.02)], (0.3, 0.2, 0.2, 0, 0.04, 0.04)),
    }
    pose = np.tile(np.float32([0.5, 0.2, 0.02, 1, 0, 0, 0]), (12, 4, 1))
    pose[..., 1] += np.arange(4) * 0.1
    hand = np.tile(np.float32([0.3, -0.2, 0.2, 0, 0.04, 0.04]), (12, 1))
    for i, task in enumerate(tasks[:9]):  # the last three are lost
        where, hand[i] = place[task.name]
        pose[i, list(task.slots), :3] = where
    ids = np.tile(np.int32(CUBES), (12, 1))
    here = CubeScene(block_pose=pose, block_id=ids, gripper=hand)
    world = worlds.load("cube")
    won = tasks_won(world, task_arrays(world, tasks), here)
    assert won.tolist() == [True] * 9 + [False] * 3
    each = [
        t.success(jax.tree.map(lambda x, i=i: x[i], here)) for i, t in enumerate(tasks)
    ]
    assert won.tolist() == [bool(x) for x in each]


def test_episodes_on_the_device_are_those_of_the_env_that_was_asked_for(monkeypatch):
    asked = []
    note = lambda config, env, askable, *rest: asked.append((env, askable))
    monkeypatch.setattr(sweep, "run_sweep", note)
    monkeypatch.setattr(sweep, "remaining", lambda config, journal: {"cell": [1]})
    config = preset("demo", world="cube", on_device=True)
    sweep._sweep(config, worlds.load_env("cube"), None, None, None)
    ((env, askable),) = asked
    assert (env.world, env.backend) == ("cube", "mjx")
    assert askable["simulator"].model.env is env


@pytest.mark.slow
def test_cube_episodes_from_pixels_are_those_of_the_host_loop():
    env = worlds.load_env("cube", backend="mjx", cubes=2, physics_dt=0.05, iterations=1)
    tasks = [("reach", 5003), ("stack", 5004), ("lift", 5005)]
    planner = worlds.load("cube").make_planner("cem", **SMALL)
    arguments = env, tasks, Onlooker(), planner, jax.random.key(0)
    options = dict(image_size=(8, 8), max_steps=4, parallel=2)
    device, host = (run(*arguments, **options) for run in (run_on_device, run_episodes))
    for a, b in zip(device, host):
        assert (a.task, a.seed, a.blocks, a.steps) == (
            b.task,
            b.seed,
            b.blocks,
            b.steps,
        )
        np.testing.assert_allclose(a.actions, b.actions, atol=2e-5)
        np.testing.assert_allclose(a.scenes.gripper, b.scenes.gripper, atol=1e-4)
