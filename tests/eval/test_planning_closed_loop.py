"""Question batches, the controller, and episodes in closed loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from swm_jax import worlds
from swm_jax.baselines.simulator import SimulatorWorldModel
from swm_jax.eval.episodes.host_loop import run_episodes
from swm_jax.models import Observation, Tokenizer
from swm_jax.planning import get_planner
from swm_jax.planning.controller import Controller
from swm_jax.planning.goals.question_batch import goal_batch, question_batch
from swm_jax.questions import ConditionalGoal, Question
from swm_jax.worlds.board.goals import goal_for_task

BOARD = worlds.language("board")
MOVED = BOARD.question("peg_moved")

ENV = worlds.load_env(backend="mujoco")
SMALL = dict(candidates=4, iterations=2, keep=2, elites=2, execute=4)


@struct.dataclass
class Onlooker:
    """A world model that sees a bright picture or nothing, and likes to go +x.

    It answers by the question's type, so that tests can tell which were asked.
    """

    needs_scene: bool = struct.field(pytree_node=False, default=False)

    def encode(self, observation, questions):
        assert (observation.scene is None) != self.needs_scene
        bright = observation.image.astype(jnp.float32).mean((1, 2, 3)) / 255
        return bright[:, None] + 0.0 * questions.type_id

    def answer_logits(self, context, actions, horizons):
        far = jnp.stack([actions[:, :, :h, 0].sum(2) for h in horizons], 2)
        yes = 10.0 * far[..., None] + context[:, None, None]
        return jnp.stack([jnp.zeros_like(yes), yes], -1)

    def answer_log_probs(self, context, actions, horizons, normalise="answers"):
        return jax.nn.log_softmax(self.answer_logits(context, actions, horizons))


def test_shorter_lists_are_padded_with_questions_of_weight_zero():
    goals = [
        goal_for_task("reach", ("red moon",)),
        goal_for_task("separate", ("red moon", "blue cube", "green star")),
    ]
    batch, arrays = goal_batch(goals, count=5)
    assert batch.type_id.shape == (2, 5) and batch.args.shape == (2, 5, 3)
    np.testing.assert_allclose(arrays.weights[0], [1, 0, 0, 0, 0])
    np.testing.assert_allclose(arrays.weights[1], [0.8, 0.1, 0.1, 0, 0])
    assert arrays.answers[1].tolist() == [1, 0, 0, 0, 0]
    for s, goal in enumerate(goals):
        for q, asked in enumerate(goal.questions):
            kind = BOARD.kind(int(batch.type_id[s, q]))
            again = Question(kind, tuple(batch.args[s, q]))
            assert again == asked


def test_tokens_are_the_words_of_the_questions():
    tokenizer = Tokenizer.load("tiny")
    lists = [
        [BOARD.question("peg_touching", "red moon"), MOVED],
        [BOARD.question("blocks_closer", "red moon", "blue cube")] * 2,
    ]
    batch = question_batch(lists, tokenizer, 16)
    assert batch.tokens.shape == batch.mask.shape == (2, 2, 16)
    for s in range(2):
        for q in range(2):
            words = tokenizer.encode(lists[s][q].text)
            assert batch.tokens[s, q][batch.mask[s, q]].tolist() == list(words)
            ids = [*tokenizer.encode("no"), *tokenizer.encode("yes")]
            assert batch.answer_ids[s, q].tolist() == ids


@pytest.mark.parametrize(
    ("lists", "settings", "message"),
    [
        ([], {}, "every scene needs a question"),
        ([[MOVED], []], {}, r"lists of \[1, 0\]"),
        (
            [[MOVED] * 3],
            {"count": 2},
            "3 questions .* room for 2",
        ),
        ([[MOVED]], {"tokenizer": object()}, "needs the length"),
    ],
)
def test_impossible_batches_are_refused(lists, settings, message):
    with pytest.raises(ValueError, match=message):
        question_batch(lists, **settings)


def test_a_goal_that_depends_on_the_present_is_asked_about_first():
    chosen = goal_for_task("reach", ("blue cube",))

    heard = []

    def scores(margins):
        jax.debug.callback(heard.append, margins)
        return jnp.stack([margins[:, 0], margins.sum(1)], 1)

    plain = goal_for_task("reach", ("red moon",))
    present = (BOARD.question("peg_touching", "red moon"), MOVED)
    depends = ConditionalGoal(present, (plain, chosen), scores)
    controller = Controller(get_planner("cem", **SMALL), Onlooker())
    image = np.full((2, 4, 4, 3), 7, np.uint8)
    observation = Observation(image=image)
    aims = controller.aims(observation, [plain, depends])
    assert aims == [plain, chosen]
    # Horizon 0: no action.
    np.testing.assert_allclose(heard[0][1], [7 / 255, 7 / 255], rtol=1e-5)


def test_episodes_from_pixels_are_reported_in_order_and_follow_the_answers():
    results = run_episodes(
        ENV,
        [("reach", seed) for seed in (5003, 5004, 5005)],
        Onlooker(),
        get_planner("cem", iterations=2),
        jax.random.key(0),
        image_size=(8, 8),
        max_steps=6,
        parallel=2,
    )
    assert [r.seed for r in results] == [5003, 5004, 5005]
    for r in results:
        assert r.steps == 6 or r.success
        assert r.scenes.peg.shape == (r.steps + 1, 2)
        assert r.candidates_per_replan == 128 and r.seconds_per_replan > 0
        assert len(r.values) == -(-r.steps // 4)
        assert r.scenes.peg[-1, 0] > r.scenes.peg[0, 0]  # it went +x


REACHES = [("reach", seed) for seed in (5003, 5004, 5005, 5006)]


def played(tasks, model, planner, parallel, **settings):
    """Results by (task, seed)."""
    results = run_episodes(
        ENV, tasks, model, planner, jax.random.key(0), parallel=parallel, **settings
    )
    return {(r.task, r.seed): r for r in results}


def assert_same_to_the_last_action(one, other):
    for episode, a in one.items():
        b = other[episode]
        assert (a.steps, a.success, a.values) == (b.steps, b.success, b.values)
        np.testing.assert_array_equal(a.actions, b.actions)
        jax.tree.map(np.testing.assert_array_equal, a.scenes, b.scenes)


class Jitter:
    """A policy on the host that draws for each scene from its key."""

    def __call__(self, observation, keys):
        draw = lambda key: 0.02 * jax.random.normal(key, (2, 16, 2))
        return np.asarray(jax.vmap(draw)(keys))


@pytest.mark.parametrize(
    ("name", "few"),
    [
        ("cem", {**SMALL, "candidates": 16}),
        ("mppi_published", dict(candidates=16, iterations=2, execute=4)),
        ("random", {}),
    ],
)
def test_an_episode_is_the_same_alone_side_by_side_and_resumed(name, few):
    planner = get_planner(name, **few)
    run = functools.partial(
        played, model=Onlooker(), planner=planner, image_size=(8, 8), max_steps=12,
        policy=Jitter(),
    )  # fmt: skip
    together = run(REACHES, parallel=3)
    first = [r.actions[0].tolist() for r in together.values()]
    assert len(set(map(tuple, first))) == len(REACHES)  # each draws its own
    assert_same_to_the_last_action(together, run(REACHES, parallel=1))
    assert_same_to_the_last_action(together, run(REACHES[::-1], parallel=4))
    # A sweep that was killed after two episodes goes on with what is left.
    left = run(REACHES[2:], parallel=3)
    assert_same_to_the_last_action(left, together)


def test_episodes_of_other_tasks_beside_it_leave_an_episode_as_it_is():
    """Goals of other sizes, and neighbours that end before it."""
    tasks = [("reach", 5003), ("separate", 5004), ("block_to_block", 5005)]
    run = functools.partial(
        played, model=SimulatorWorldModel(ENV, logit_noise=0.5, pose_noise=0.002),
        planner=get_planner("cem", **{**SMALL, "candidates": 16}), max_steps=24,
    )  # fmt: skip
    together = run(tasks, parallel=3)
    assert len({r.steps for r in together.values()}) > 1
    for task in tasks:
        assert_same_to_the_last_action(run([task], parallel=1), together)


def test_an_episode_ends_at_its_first_success_and_is_reported_at_once():
    seen = []
    results = run_episodes(
        ENV,
        [("separate", 5000), ("reach", 5001), ("block_to_block", 5002)],
        Onlooker(needs_scene=True),
        get_planner("random"),
        jax.random.key(0),
        preset="published",
        max_steps=3,
        parallel=3,
        on_end=seen.append,
    )
    assert sorted(r.seed for r in seen) == [5000, 5001, 5002]
    assert [r.task for r in results] == ["separate", "reach", "block_to_block"]
    assert [len(r.blocks) for r in results] == [3, 1, 2]
    assert all(r.steps == 3 and not r.success for r in results)
