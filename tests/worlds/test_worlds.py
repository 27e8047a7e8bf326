"""Every registered world: its parts fit together, and nothing is imported too early."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from data_pipelines.generate.config import default_config, resolve
from data_pipelines.schema.domains import get_domain
from swm_jax import worlds
from swm_jax.planning import PLANNERS
from swm_jax.questions.conditional_goals import options_of, present_of

WORLDS = [worlds.load(name) for name in worlds.names()]
OURS = [world for world in WORLDS if "mujoco" in world.env.engines]
by_name = pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
ours = pytest.mark.parametrize("world", OURS, ids=lambda world: world.name)


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_names_of_the_worlds_cost_no_import():
    said = run(
        "import sys; from swm_jax import worlds; print(*worlds.names());"
        "print('jax' in sys.modules, 'mujoco' in sys.modules)"
    )
    assert said == [*worlds.names(), "False", "False"]


def test_the_c_engine_goes_without_mjx():
    said = run(
        "import sys; from swm_jax import worlds; worlds.load_env(backend='mujoco');"
        "print('mujoco.mjx' in sys.modules)"
    )
    assert said == ["False"]


def test_importing_worlds_and_reading_a_config_starts_no_backend():
    """`jax.distributed.initialize` comes after both, and must find JAX unused."""
    said = run(
        "import swm_jax.train; from swm_jax import worlds;"
        "from experiments import board_tiny; from swm_jax.training import Experiment;"
        "[worlds.load(name) for name in worlds.names()];"
        "Experiment.parse(board_tiny.get_config('debug'));"
        "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    )
    assert said == ["False"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: worlds.load("bord"), "unknown world 'bord' .did you mean 'board'"),
        (lambda: worlds.load_env("cub"), "unknown world 'cub' .did you mean 'cube'"),
        (
            lambda: WORLDS[0].make_env("mjc"),
            "unknown backend 'mjc' .did you mean 'mujoco'",
        ),
        (lambda: WORLDS[0].look("defalt"), "unknown look 'defalt' .did you mean"),
    ],
)
def test_unknown_names_suggest_the_nearest(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@by_name
def test_goals_of_every_task_and_preset_are_asked_in_the_worlds_language(world):
    settings = world.env.settings()
    for name in world.tasks.names:
        for seed in range(8):
            task = world.tasks.make(name, seed, settings)
            assert task.name == name and len(task.names) == len(task.slots)
            for preset in world.goals.presets:
                goal = world.goal(task, preset)
                asked = list(present_of(goal))
                for option in options_of(goal):
                    asked += option.questions
                for question in asked:
                    assert world.language.parse(question.text) == question
        most = world.most_questions([name], preset)
        assert most == max(len(option.questions) for option in options_of(goal))


@by_name
@pytest.mark.parametrize("name", PLANNERS)
def test_every_planner_plans_the_worlds_actions(world, name):
    config = world.make_planner(name).config
    assert config.action_size == world.env.action_size
    assert config.action_limit <= world.env.action_limit


@by_name
def test_the_worlds_default_data_set_can_be_generated(world):
    config = resolve(default_config(world.name))
    assert config.backend in world.env.engines
    assert set(config.mixture) <= set(world.policies.names)


@ours
def test_scenes_are_what_the_world_says_of_stored_ones(world):
    env = world.make_env("mujoco")
    scene = env.scene(env.reset_batch(jax.random.split(jax.random.key(0), 2)))
    assert isinstance(scene, world.scene.kind) and scene.batch_shape == (2,)
    assert get_domain(world.scene.domain).scene is world.scene
    stored = {}
    for name, field in world.scene.state.items():
        value = np.asarray(getattr(scene, name))
        shape = value.shape[1:]
        assert len(shape) == len(field.shape) and value.dtype == field.dtype
        assert all(want in (None, n) for n, want in zip(shape, field.shape))
        stored[name] = value if field.per_frame else value[0]
        low, high = world.scene.bounds.get(name, (-np.inf, np.inf))
        assert (value >= low).all() and (value <= high).all()

    def need(good, what, seen, expected):
        assert good, (what, seen, expected)

    world.scene.check(stored, need)
    back = world.scene.kind(**{name: getattr(scene, name) for name in stored})
    jax.tree.map(np.testing.assert_array_equal, back, scene)


@ours
def test_the_expert_of_the_world_acts_within_its_limits(world):
    env = world.make_env("mujoco")
    for name in world.tasks.names:
        task = world.make_task(name, 3, env)
        scene = env.scene(task.reset(env, jax.random.key(3)))
        action = world.policies.expert(env, scene, task, 3, jax.random.key(0))
        assert np.shape(action) == (env.action_size,)
        assert np.abs(action).max() <= env.action_limit


@ours
def test_both_renderers_of_the_world_have_its_looks(world):
    env = world.make_env("mujoco")
    paint = world.pictures(env, 8, 12, world.look("default"))
    states = env.reset_batch(jax.random.split(jax.random.key(0), 2))
    assert paint(states).shape == (2, 8, 12, 3)
    assert "default" in world.looks


def test_types_of_questions_have_one_id_over_all_worlds():
    kinds = worlds.question_types()
    for world in WORLDS:
        assert all(kinds[kind.id] is kind for kind in world.language.types)
