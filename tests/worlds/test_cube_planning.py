"""Planning on the cube arm with the simulator, and its evaluation from end to end."""

import jax
import numpy as np
import pytest
from goal_choice import by_table

from swm_jax import worlds
from swm_jax.baselines.simulator import SimulatorWorldModel
from swm_jax.eval.config import UserError, preset
from swm_jax.eval.episodes.cells import load_actions, load_episode
from swm_jax.eval.episodes.host_loop import run_episodes
from swm_jax.eval.journal import Episode
from swm_jax.eval.sweep import evaluate
from swm_jax.models import Observation
from swm_jax.planning.goals.question_batch import question_batch
from swm_jax.worlds.cube.goals import GOALS
from swm_jax.worlds.cube.scene import CubeScene
from swm_jax.worlds.cube.tasks import PAIRS, make_task

CUBE = worlds.language("cube")

SMALL = dict(candidates=24, iterations=3, keep=4, elites=6, horizon=8, sub_chunk=4)


@pytest.fixture(scope="module")
def env():
    return worlds.load_env("cube", backend="mujoco")


def test_the_simulator_answers_with_the_margin_of_what_will_happen(env):
    states = env.reset_batch(jax.random.split(jax.random.key(0), 2))
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (2, 3, 4, 5)).astype(np.float32)
    asked = [
        CUBE.question("gripper_closer", "blue cube"),
        CUBE.question("cube_on_top", "red cube", "blue cube"),
    ]
    batch = question_batch([asked] * 2)
    model = SimulatorWorldModel(env)
    look = Observation(image=np.zeros((2, 1, 1, 3), np.uint8), scene=states)
    logits = jax.jit(lambda m, o, q, a: m.answer_logits(m.encode(o, q), a, (0, 2, 4)))(
        model, look, batch, actions
    )
    assert logits.shape == (2, 3, 3, 2, 2)
    one = jax.tree.map(lambda x: x[1:], states)
    path = env.rollout_batch(one, actions[1:, 2])
    first, last = (jax.tree.map(lambda x, t=t: x[0, t], path) for t in (0, 4))
    for q, each in enumerate(asked):
        want = CUBE.margin(np.array(each.type_id), np.array(each.args), first, last)
        found = logits[1, 2, 2, q, 1] - logits[1, 2, 2, q, 0]
        assert found == pytest.approx(float(want) / 0.02, abs=1e-3)


def test_reaching_succeeds_and_actions_are_kept(env):
    result, = run_episodes(
        env, [("reach", 5000)], SimulatorWorldModel(env),
        worlds.load("cube").make_planner("cem", **SMALL), jax.random.key(0), parallel=1,
        max_steps=40,
    )  # fmt: skip
    assert result.success and result.blocks == ("red cube",)
    assert result.actions.shape == (result.steps, 5)
    assert result.scenes.block_pose.shape == (result.steps + 1, 4, 7)
    start = jax.tree.map(lambda x: x[:1], result.scenes)
    again = env.rollout_batch(env.state_from_scene(start), result.actions[None])
    np.testing.assert_allclose(again.gripper[0], result.scenes.gripper, atol=1e-3)


def test_pairs_and_targets_follow_the_seed():
    named = [make_task("stack", seed=seed).names for seed in range(6000, 6003)]
    assert named == [
        ("blue cube", "green cube"),
        ("blue cube", "yellow cube"),
        ("yellow cube", "red cube"),
    ]
    assert len(PAIRS) == 3
    assert {make_task("reach", seed=s).slots for s in range(4)} == {
        (0,),
        (1,),
        (2,),
        (3,),
    }
    with pytest.raises(ValueError, match="did you mean 'stack'"):
        make_task("stak")
    with pytest.raises(ValueError, match="not among the env's cubes: red cube"):
        make_task("lift", target="green cube").reset(
            worlds.load_env("cube", backend="mujoco", cubes=1), jax.random.key(0)
        )


def test_bad_settings_and_actions_are_named(env):
    with pytest.raises(ValueError, match="cubes is 5, expected 1 to 4"):
        worlds.load_env("cube", cubes=5)
    with pytest.raises(ValueError, match="unknown look 'solid'"):
        worlds.load_env("cube", look="solid")
    with pytest.raises(ValueError, match="divides the control period of 0"):
        worlds.load_env("cube", control_period=0.05, physics_dt=0.02)
    state = env.reset(jax.random.key(0))
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(5,\)"):
        env.step(state, np.zeros(2))
    with pytest.raises(ValueError, match=r"action\[3\] is nan"):
        env.step(state, np.array([0, 0, 0, np.nan, 0]))


def test_an_evaluation_of_the_cube_fills_its_report(tmp_path):
    config = preset(
        "demo", world="cube", tasks=("reach",), methods=("cem",), seeds=(5000,),
        candidates=8, iterations=1, max_steps=4, video=False,
    )  # fmt: skip
    assert config.world_models == ("simulator", "random")
    found = evaluate(config, tmp_path)
    rows = {row["world_model"]: row for row in found["planning"]}
    assert set(rows) == {"simulator", "random"}
    assert rows["simulator"]["episodes"] == 1
    assert "reach" in (tmp_path / "report.html").read_text()
    kept = Episode("reach", "cem", "simulator", 5000, False, 4, 0.0, 8, "red cube")
    assert isinstance(load_episode(config, tmp_path, kept), CubeScene)
    assert load_actions(tmp_path, kept).shape == (4, 5)
    with pytest.raises(UserError, match="unknown task 'separate'"):
        preset("demo", world="cube", tasks=("separate",))


@pytest.mark.parametrize("task", ("lift", "stack"))
def test_published_stages_latch_and_shaped_ones_come_back(task):
    """As `--goal` of the command line has it, and the loop makes it of a task."""
    made = make_task(task)
    after = {}
    for name in GOALS.presets:
        config = preset("demo", world="cube", tasks=(task,), goal=name)
        goal = GOALS.make(task, made.names, config.goal)
        assert by_table(goal, 5.0)[1] == 1
        after[name] = by_table(goal, -5.0, stage=1)[1]
    assert after == {"published": 1, "shaped": 0}
