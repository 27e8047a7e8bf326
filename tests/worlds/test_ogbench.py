"""OGBench's own package: its scenes, episodes, files and a planned episode in its env.

Run with `make test-ogbench`; MUJOCO_GL must say how to draw before Python starts.
"""

import jax
import numpy as np
import pytest
from foreign_data import ogbench_file

from data_pipelines.generate_ogbench import generate
from data_pipelines.saqa.horizons import Horizons
from data_pipelines.saqa.sampler import SaqaSampler
from data_pipelines.schema.read import load_episodes
from data_pipelines.sources.convert import Settings, convert
from experiments import generate_ogbench
from swm_jax import worlds
from swm_jax.baselines.simulator import SimulatorWorldModel
from swm_jax.envs.scene import BLOCK_NAMES
from swm_jax.eval.episodes.host_loop import run_episodes
from swm_jax.models import SemanticWorldModel, Tokenizer, VLMWorldModel, get_config
from swm_jax.worlds.ogbench.env import SceneReader, available, seeded

CUBE = worlds.language("cube")

pytestmark = [
    pytest.mark.ogbench,
    pytest.mark.skipif(not available(), reason="ogbench is not installed"),
]
SIZE = 64


@pytest.fixture(scope="module")
def env():
    return worlds.load_env("ogbench", cubes=2, size=SIZE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three episodes: of the play and the noisy oracle."""
    directory = tmp_path_factory.mktemp("ogbench") / "data"
    generate(generate_ogbench.get_config("debug"), str(directory))
    return directory


def batch(scene):
    return jax.tree.map(lambda x: np.asarray(x)[None], scene)


def margin(kind, names, now, later):
    asked = CUBE.question(kind, *names)
    return float(
        np.asarray(
            CUBE.margin(
                np.array([asked.type_id]),
                np.array([asked.args]),
                batch(now),
                batch(later),
            )
        )[0]
    )


def test_same_seed_gives_the_same_world_and_picture(env):
    one, other = env.reset(6000), env.reset(6001)
    again = env.reset(jax.random.key(6000))
    np.testing.assert_array_equal(one.physics, again.physics)
    np.testing.assert_array_equal(env.picture(one), env.picture(again))
    assert not np.array_equal(one.block_pose, other.block_pose)


def test_worlds_side_by_side_go_the_way_each_goes_alone(env):
    rng = np.random.default_rng(0)
    starts = [env.reset(seed) for seed in (1, 2)]
    actions = rng.uniform(-1, 1, (2, 4, 5))
    alone = []
    for state, chunk in zip(starts, actions):
        for action in chunk:
            state = env.step(state, action)
        alone.append(env.scene(state))
    both = jax.tree.map(lambda *x: np.stack(x), *starts)
    together = env.rollout_batch(both, actions)
    for i in range(2):
        np.testing.assert_allclose(
            together.block_pose[i, -1], alone[i].block_pose, atol=1e-6
        )
        np.testing.assert_allclose(together.gripper[i, -1], alone[i].gripper, atol=1e-6)


def test_an_open_gripper_is_as_wide_as_ours(env):
    """The pads of OGBench's gripper and of our Cartesian one open equally far."""
    from swm_jax.worlds.cube.geometry import MAX_GAP

    gap = env.scene(env.reset(3)).gripper[4:]
    np.testing.assert_allclose(gap, MAX_GAP, atol=1e-3)


def test_our_predicates_agree_with_its_contacts_while_its_oracle_grasps(env):
    """Grasped by our rule when its own sensor feels a pad and the cube has left."""
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

    state = env.reset(11)
    package = env.package_env
    oracle = CubeMarkovOracle(env=package, min_norm=0.4)
    start, held, felt = env.scene(state), [], []
    with seeded(0):
        oracle.reset(None, package.compute_ob_info())
        for _ in range(40):
            info = package.compute_ob_info()
            target = int(info["privileged/target_block"])
            state = env.step(state, oracle.select_action(None, info))
            scene = env.scene(state)
            name = BLOCK_NAMES[scene.block_id[target]]
            held.append(margin("cube_grasped", [name], start, scene) > 0)
            after = package.compute_ob_info()
            lifted = scene.block_pose[target, 2] > 0.03
            felt.append(after["proprio/gripper_contact"][0] > 0.5 and lifted)
            if np.asarray(after["proprio/gripper_contact"])[0] == 0 and not lifted:
                assert not held[-1]
    held, felt = np.array(held), np.array(felt)
    assert felt.sum() > 5
    assert held[felt].mean() > 0.9


def test_episodes_of_its_oracles_ask_every_cube_question(data):
    episodes = load_episodes(data, "train")
    assert episodes.domain == "cube" and episodes.action.shape[-1] == 5
    assert set(episodes.policies) <= {"play", "noisy"}
    horizons = Horizons(8, (0, 4, 8), (0.4, 0.3, 0.3), (8,))
    sampler = SaqaSampler(episodes, horizons=horizons)
    drawn = sampler.sample_batch(0, 0, 8, 4, 8)
    now = episodes.scene(drawn.episode[:, None], drawn.t[:, None])
    later = episodes.scene(
        drawn.episode[:, None], drawn.t[:, None] + drawn.query_horizon
    )
    args = np.take_along_axis(drawn.args, drawn.query_question[..., None], 1)
    truth = np.asarray(CUBE.margin(drawn.query_type, args, now, later)) > 0
    valid = drawn.query_valid
    np.testing.assert_array_equal(truth[valid], drawn.query_answer[valid] > 0)


def test_the_same_config_gives_the_same_episodes(data, tmp_path):
    generate(generate_ogbench.get_config("debug"), str(tmp_path / "again"))
    left, right = load_episodes(data), load_episodes(tmp_path / "again")
    np.testing.assert_array_equal(left.action, right.action)
    np.testing.assert_array_equal(left.frames, right.frames)


def test_published_files_with_positions_become_cube_scenes(env, tmp_path):
    """qpos of a few real steps, stored as OGBench does it, gives the same scenes."""
    rng = np.random.default_rng(5)
    states = [env.reset(21)]
    for _ in range(14):
        states.append(env.step(states[-1], rng.uniform(-1, 1, 5)))
    package, rows = env.package_env, []
    for state in states:
        env._load(state)
        rows.append(package._data.qpos.copy())
    scenes = SceneReader(2)(np.stack(rows))
    for state, pose, gripper in zip(states, scenes.block_pose, scenes.gripper):
        np.testing.assert_allclose(pose, state.block_pose, atol=1e-5)
        np.testing.assert_allclose(gripper, state.gripper, atol=1e-4)
    name = tmp_path / "visual-cube-double-play-v0.npz"
    source = ogbench_file(name, (8, 7), qpos=np.stack(rows))
    convert(source, tmp_path / "out", Settings(size=None, val_share=0.5))
    episodes = load_episodes(tmp_path / "out", "train")
    assert episodes.domain == "cube"
    np.testing.assert_allclose(
        episodes.scene(0, 3).gripper, states[3].gripper, atol=1e-4
    )


def test_a_planned_episode_in_its_env_reaches_the_cube(env):
    """Our simulator imagines, OGBench's robot acts: its contacts decide success."""
    ours = worlds.load_env("cube", backend="mujoco", cubes=2)
    planner = worlds.load("ogbench").make_planner("mppi", candidates=48, iterations=3)
    (result,) = run_episodes(
        env,
        [("reach", 6000)],
        SimulatorWorldModel(ours),
        planner,
        jax.random.key(0),
        max_steps=60,
    )
    assert result.success, (result.steps, result.values)
    assert result.scenes.gripper.shape == (result.steps + 1, 6)


def test_a_model_that_sees_its_pictures_plans_in_its_env(env):
    """Untrained, so it need not succeed; every part of the way is taken."""
    config = get_config(
        "tiny", action_size=5, image_size=SIZE, patch_size=16, depth=1, vision_depth=1
    )
    params = SemanticWorldModel(config).init_params(jax.random.key(0))
    (result,) = run_episodes(
        env,
        [("stack", 6001)],
        VLMWorldModel(params, config),
        worlds.load("ogbench").make_planner("mppi", candidates=8, iterations=2),
        jax.random.key(0),
        tokenizer=Tokenizer.load("board_cube"),
        question_length=config.max_question_tokens,
        image_size=(SIZE, SIZE),
        max_steps=5,
    )
    assert result.steps == 5 and np.isfinite(result.values).all()
    moved = result.scenes.gripper[-1, :3] - result.scenes.gripper[0, :3]
    assert np.linalg.norm(moved) > 0.01
