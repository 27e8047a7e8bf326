"""Numbers as answers: bins, words, tokens, and a simulator that knows them."""

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from data_pipelines import train_tokenizer
from data_pipelines.saqa.tokens import AnswerTokens, QuestionTokens
from swm_jax import worlds
from swm_jax.baselines.simulator import SimulatorWorldModel
from swm_jax.models import Observation, Tokenizer
from swm_jax.models.ask import read_answers
from swm_jax.planning.goals.question_batch import goal_batch, question_batch
from swm_jax.questions import AnswerSet, Arg, QuestionType, bins, expand, make_goal
from swm_jax.questions.types import number_word
from swm_jax.worlds.board.scene import BLOCK_SETS

BOARD = worlds.language("board")
DISTANCES = ("blocks_distance", "peg_distance", "block_moved_distance")
TINY = Tokenizer.load("tiny")
IDS = BLOCK_SETS["standard"]


def test_bins_are_the_nearest_of_their_values():
    answers = bins(3, 4, 5, 10, 20)
    assert answers.answers == ("three", "four", "five", "ten", "twenty")
    metres = np.random.default_rng(0).uniform(0, 0.4, 500).astype(np.float32)
    nearest = abs(metres[:, None] - np.array(answers.values)).argmin(1)
    np.testing.assert_array_equal(answers.index(metres), nearest)
    np.testing.assert_array_equal(jax.jit(answers.index)(metres), nearest)


def test_numbers_have_distinct_words():
    words = [number_word(i) for i in range(100)]
    assert len(set(words)) == 100
    assert [words[i] for i in (7, 17, 40)] == ["seven", "seventeen", "forty"]
    assert words[63] == "sixty-three"
    with pytest.raises(ValueError, match="expected 0 to 99"):
        number_word(100)


def test_answer_sets_and_types_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="needs distinct answers"):
        AnswerSet(("no", "no"))
    with pytest.raises(ValueError, match="3 answers need 2 rising edges"):
        AnswerSet(("a", "b", "c"), edges=(0.2, 0.1))
    with pytest.raises(ValueError, match="3 answers need as many values"):
        AnswerSet(("a", "b", "c"), values=(0.1,), edges=(0.1, 0.2))
    block, side = Arg("block", ("t",)), Arg("direction", ("up", "down"))
    with pytest.raises(ValueError, match="objects first"):
        QuestionType("x", 99, (side, block), None, ("?",))
    with pytest.raises(ValueError, match="symmetric, expected two objects"):
        QuestionType("x", 99, (block,), None, ("?",), symmetric=True)


def test_distances_are_asked_only_where_they_are_named():
    names = {kind.name for kind in BOARD.select()}
    assert not names & set(DISTANCES) and len(names) == 12
    assert len(BOARD.table(IDS)) == 849
    table = BOARD.table(IDS, DISTANCES)
    assert len(table) == 8 * 7 + 8 + 8
    for text in table.texts():
        assert len(text.split()) <= 14 and BOARD.parse(text).type in DISTANCES
    assert "far" in BOARD.vocabulary() and "How" not in BOARD.vocabulary()
    words = BOARD.vocabulary(DISTANCES)
    assert {"How", "zero", "three", "sixty"} <= set(words)


def test_distances_are_those_of_the_poses():
    env = worlds.load_env("board", backend="mujoco")
    states = env.reset_batch(jax.random.split(jax.random.key(3), 2))
    now, then = (jax.tree.map(lambda x, i=i: x[i], env.scene(states)) for i in (0, 1))
    # Another scene's places for the same blocks: as if all had moved.
    then = then.replace(block_id=now.block_id)
    table = BOARD.table(IDS, DISTANCES)
    asked_of = table.type_id, table.args, expand(now), expand(then)
    value, answer = BOARD.margin(*asked_of), BOARD.answer(*asked_of)
    for i in range(len(table)):
        asked = table.question(i)
        slots = [list(now.block_id).index(x) for x in asked.blocks]
        places = [*np.asarray(then.block_pose)[slots, :2], np.asarray(then.peg)]
        if asked.kind.about_change:
            places[1] = np.asarray(now.block_pose)[slots[0], :2]
        metres = np.linalg.norm(places[0] - places[1])
        assert value[i] == pytest.approx(metres, abs=1e-6)
        values = np.array(asked.kind.answers.values)
        assert answer[i] == abs(values - metres).argmin()
    np.testing.assert_array_equal(jax.jit(BOARD.answer)(*asked_of), answer)


def test_the_command_trains_on_the_types_it_is_told(tmp_path, capsys):
    flags.FLAGS.mark_as_parsed()
    file = tmp_path / "own.model"
    with flagsaver.flagsaver(types=["blocks_distance"], model_file=str(file)):
        train_tokenizer.main([])
    own = Tokenizer(file.read_bytes(), "own")
    assert file.read_bytes() == train_tokenizer.train(types=["blocks_distance"])
    assert len(own.encode("forty-five")) < len(TINY.encode("forty-five"))
    for wrong in (
        dict(types=["blocks_distance"]),
        dict(types=["bloks"], model_file="x"),
    ):
        with flagsaver.flagsaver(**wrong), pytest.raises(SystemExit):
            train_tokenizer.main([])
    said = capsys.readouterr().err
    assert "--model_file" in said and "did you mean" in said


def test_the_tiny_tokenizer_spells_them_and_one_of_their_own_has_a_word_each():
    """Spelled, an answer ends with the end token: six must not contain sixty."""
    kinds = BOARD.select((*DISTANCES, "peg_moved"))
    spelled = AnswerTokens.make(TINY, False, kinds)
    own = Tokenizer(train_tokenizer.train(("board",), DISTANCES), "own")
    single = AnswerTokens.make(own, False, kinds)
    assert single.tokens.shape[2] == 1
    for kind in kinds:
        for i, word in enumerate(kind.answers.answers):
            said = spelled.tokens[kind.id, i]
            assert TINY.decode(said) == word
            assert (TINY.eos_id in said) == kind.answers.numeric
            assert own.decode(single.tokens[kind.id, i]) == word
    type_id = np.array([kinds[0].id, kinds[-1].id])
    tokens, mask = spelled(type_id, np.array([1, 2]), np.array([True, False]))
    assert mask[0].sum() == 1 and not mask[1].any() and (tokens[~mask] == 0).all()
    words = QuestionTokens.make(own, IDS, 16, BOARD, DISTANCES)
    asked = BOARD.question("blocks_distance", "red moon", "blue cube", phrasing=1)
    found, real = words(np.array(asked.type_id), np.array(asked.args), np.array(1))
    assert own.decode(found[real]) == asked.text
    with pytest.raises(ValueError, match="longer than the 8 allowed"):
        QuestionTokens.make(TINY, IDS, 8, BOARD, DISTANCES)


def test_a_question_brings_its_own_answers_into_a_batch_and_a_goal():
    far = BOARD.question("peg_distance", "red moon")
    moved = BOARD.question("peg_moved")
    batch = question_batch([[far, moved]], TINY, 24)
    assert batch.answer_ids.shape[:3] == (1, 2, 14)
    assert TINY.decode(batch.answer_ids[0, 0, 3]) == "six"
    assert TINY.decode(batch.answer_ids[0, 1, 1]) == "yes"
    goal = make_goal([(far, "three", 1.0), (moved, "yes", 0.5)])
    _, arrays = goal_batch([goal])
    assert arrays.answers[0].tolist() == [0, 1]
    assert arrays.offered.sum(-1).tolist() == [[14, 2]]
    with pytest.raises(ValueError, match="desired answer must be one of"):
        make_goal([(far, "yes", 1.0)])


def test_the_simulator_says_the_bin_of_what_really_happens():
    env = worlds.load_env("board", backend="mujoco")
    states = env.reset_batch(jax.random.split(jax.random.key(0), 3))
    actions = 0.03 * jax.random.normal(jax.random.key(1), (3, 4, 8, 2))
    asked = [
        BOARD.question("peg_distance", "red moon"),
        BOARD.question("block_moved_distance", "blue cube"),
        BOARD.question("blocks_distance", "red moon", "blue cube"),
        BOARD.question("peg_moved"),
    ]
    batch = question_batch([asked] * 3)
    seen = Observation(image=np.zeros((3, 1, 1, 3), np.uint8), scene=states)
    model = SimulatorWorldModel(env)
    logits = np.asarray(read_answers(model, seen, batch, actions, (0, 8)))
    assert logits.shape == (3, 4, 2, 4, 14)
    repeated = jax.tree.map(lambda x: np.repeat(x, 4, 0), states)
    path = env.rollout_batch(repeated, np.asarray(actions).reshape(12, 8, 2))
    for k, h in enumerate((0, 8)):
        now, then = (expand(jax.tree.map(lambda x, t=t: x[:, t], path)) for t in (0, h))
        truth = BOARD.answer(batch.type_id[0], batch.args[0], now, then)
        said = logits[:, :, k].argmax(-1).reshape(12, 4)
        np.testing.assert_array_equal(said, truth)
    assert np.isneginf(logits[..., 3, 2:]).all()  # of yes or no two answers alone
