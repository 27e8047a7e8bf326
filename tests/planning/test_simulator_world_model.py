"""The simulator as a world model: exact answers, planned on in closed loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swm_jax import envs, worlds
from swm_jax.baselines.simulator import SimulatorWorldModel
from swm_jax.eval.episodes.host_loop import run_episodes
from swm_jax.models import Observation
from swm_jax.planning import WorldModel, get_planner
from swm_jax.planning.goals.question_batch import goal_batch, question_batch
from swm_jax.worlds.board.goals import goal_for_task

BOARD = worlds.language("board")

ENV = worlds.load_env(backend="mujoco")
ASKED = (
    BOARD.question("peg_touching", "red moon"),
    BOARD.question("block_moved", "blue cube"),
    BOARD.question("peg_moved_direction", "left"),
    BOARD.question("blocks_closer", "red moon", "blue cube"),
)


def look(scene):
    count = jax.tree.leaves(scene)[0].shape[0]
    return Observation(image=np.zeros((count, 1, 1, 3), np.uint8), scene=scene)


def distance(a, b):
    return np.linalg.norm(a - b)


def between(scene, *names):
    """Distance between two blocks, by name."""
    ids = [list(scene.block_id).index(envs.BLOCK_NAMES.index(n)) for n in names]
    return distance(*scene.block_pose[ids, :2])


def start(scenes=3, seed=0):
    return ENV.reset_batch(jax.random.split(jax.random.key(seed), scenes))


def chunks(scenes=3, candidates=4, horizon=8):
    key = jax.random.key(1)
    return 0.03 * jax.random.normal(key, (scenes, candidates, horizon, 2))


@jax.jit
def ask(model, scene, questions, actions):
    image = jnp.zeros((actions.shape[0], 1, 1, 3), jnp.uint8)
    context = model.encode(Observation(image=image, scene=scene), questions)
    return model.answer_logits(context, actions, (0, 3, 8))


def test_answers_are_the_margins_of_what_really_happens():
    model = SimulatorWorldModel(ENV)
    assert isinstance(model, WorldModel)
    states, actions = start(), chunks()
    logits = np.asarray(ask(model, states, question_batch([ASKED] * 3), actions))
    assert logits.shape == (3, 4, 3, 4, 2)
    margin = (logits[..., 1] - logits[..., 0]) * 0.02
    for s in range(3):  # one world at a time, step by step, distances by hand
        for n in range(4):
            state = jax.tree.map(lambda x, s=s: x[s], states)
            scenes = [ENV.scene(state)]
            for action in np.asarray(actions[s, n]):
                state = ENV.step(state, action)
                scenes.append(ENV.scene(state))
            slot = lambda name, ids=list(scenes[0].block_id): ids.index(
                envs.BLOCK_NAMES.index(name)
            )
            moon, cube = slot("red moon"), slot("blue cube")
            for k, h in enumerate((0, 3, 8)):
                now, then = scenes[0], scenes[h]
                touch = 0.05 - distance(then.peg, then.block_pose[moon, :2])
                moved = distance(then.block_pose[cube, :2], now.block_pose[cube, :2])
                pair = ("red moon", "blue cube")
                closer = between(now, *pair) - between(then, *pair) - 0.04
                np.testing.assert_allclose(
                    margin[s, n, k, [0, 1, 3]], [touch, moved - 0.04, closer], atol=2e-5
                )
                if h == 0:
                    assert margin[s, n, k, 2] < 0  # a change needs time


def test_log_probabilities_are_the_sigmoid_of_the_margin():
    model = SimulatorWorldModel(ENV)
    context = model.encode(look(start()), question_batch([ASKED] * 3))
    logits = np.asarray(model.answer_logits(context, chunks(), (8,)))
    log_probs = np.asarray(model.answer_log_probs(context, chunks(), (8,)))
    margin = logits[..., 1] - logits[..., 0]
    np.testing.assert_allclose(log_probs[..., 1], -np.logaddexp(0, -margin), atol=1e-4)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1.0, rtol=1e-4)


def test_a_scene_at_rest_is_as_good_as_a_state():
    model = SimulatorWorldModel(ENV)
    states, actions = start(), chunks()
    questions = question_batch([ASKED] * 3)
    by_state = ask(model, states, questions, actions)
    by_scene = ask(model, ENV.scene(states), questions, actions)
    np.testing.assert_allclose(by_state, by_scene, atol=1e-3)


def test_pose_noise_is_of_its_size_and_the_same_for_the_same_scene():
    model = SimulatorWorldModel(ENV, pose_noise=0.005)
    states = start(60)
    questions = question_batch([ASKED[:1]] * 60)
    context = model.encode(look(states), questions)
    again = model.encode(look(states), questions)
    np.testing.assert_array_equal(context.start.qpos, again.start.qpos)
    seen, true = context.scene, ENV.scene(states)
    error = np.asarray(seen.block_pose[..., :2]) - true.block_pose[..., :2]
    assert 0.0047 < error.std() < 0.0053
    np.testing.assert_array_equal(seen.block_pose[..., 2], true.block_pose[..., 2])
    other = jax.tree.map(np.copy, states)
    other.qpos[:, -1] += 0.001
    moved = model.encode(look(other), questions).scene.block_pose
    assert np.abs(np.asarray(moved - seen.block_pose)[..., :2]).max() > 0.005


def test_squashed_answers_keep_their_order_and_their_limit():
    states, actions = start(), chunks()
    questions = question_batch([ASKED] * 3)
    margins = []
    for limit in (0.0, 2.0):
        model = SimulatorWorldModel(ENV, logit_limit=limit)
        logits = np.asarray(ask(model, states, questions, actions))
        margins.append(logits[..., 1] - logits[..., 0])
    exact, squashed = margins
    assert np.abs(squashed).max() <= 2.0 < np.abs(exact).max()
    np.testing.assert_allclose(squashed, 2 * np.tanh(exact / 2), atol=1e-4)


def test_an_observation_without_a_scene_is_refused():
    model = SimulatorWorldModel(ENV)
    with pytest.raises(ValueError, match=r"needs observation\.scene"):
        model.encode(Observation(image=np.zeros((1, 1, 1, 3))), question_batch([ASKED]))


def test_blocks_that_are_not_on_the_board_leave_no_candidate():
    goal = goal_for_task("reach", ("purple cube",))
    questions, arrays = goal_batch([goal] * 2)
    planner = get_planner("cem", candidates=8, iterations=2, keep=2, elites=4)
    _, _, info = planner.plan(
        SimulatorWorldModel(ENV), look(start(2)), questions, arrays,
        planner.init_state(2), jax.random.key(0),
    )  # fmt: skip
    assert info.nan_candidates.tolist() == [16, 16]


@pytest.mark.parametrize("task", ("reach", "separate", "block_to_block"))
def test_planning_with_the_truth_solves_every_task(task):
    results = run_episodes(
        ENV,
        [(task, seed) for seed in range(5000, 5003)],
        SimulatorWorldModel(ENV),
        get_planner("cem"),
        jax.random.key(0),
        parallel=3,
        max_steps=60,
    )
    assert [r.success for r in results] == [True] * 3


@pytest.mark.slow
def test_mjx_answers_as_the_c_engine_does():
    states, actions = start(2), chunks(2, 3)
    questions = question_batch([ASKED] * 2)
    host = ask(SimulatorWorldModel(ENV), states, questions, actions)
    device = worlds.load_env(backend="mjx")
    inside = ask(SimulatorWorldModel(device), states, questions, actions)
    np.testing.assert_allclose(host, inside, atol=0.5)  # half a logit is 1 cm
