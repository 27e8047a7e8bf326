"""Labellers, stored labels, batches drawn from them, and the trust they deserve."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from stored_episodes import board_episode, picture, plain_episode, write

from data_pipelines.agreement import measure, table
from data_pipelines.batches.config import Data
from data_pipelines.batches.query_types import type_of_text
from data_pipelines.batches.stream import make_train_iterator
from data_pipelines.label.labellers import (
    FrameLabeller,
    PredicateLabeller,
    load_labeller,
    vqa_labeller,
)
from data_pipelines.label.store import Asking, label_folder, read_questions
from data_pipelines.schema.episode import DataError, Labels
from data_pipelines.schema.read import load_episodes, read_episodes
from swm_jax import worlds
from swm_jax.models import SemanticWorldModel, Tokenizer, VLMWorldModel, get_config
from swm_jax.worlds.board.questions import TOUCH

BOARD = worlds.language("board")

ROOT = Path(__file__).parents[2]
TOUCHING = BOARD.question("peg_touching", "red moon").text
MOVED = BOARD.question("peg_moved").text
BOTH = "Is the blue cube touching the green cube?"  # of the board and of the cube arm
SMALL = {"image_size": 16, "patch_size": 8, "depth": 1, "vision_depth": 1}


def brightness(images, questions):
    """Says yes about frames with an even number of steps; sure of late ones."""
    t = images[:, 1, 0, 0].astype(int)
    return ["yes" if x % 2 == 0 else "no" for x in t], np.where(t > 4, 0.95, 0.5)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    episodes = [board_episode(n) for n in range(30)]
    return write(tmp_path_factory.mktemp("b") / "board", episodes[:6], episodes[6:])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    episodes = [plain_episode(n, width=2) for n in range(6)]
    return write(tmp_path_factory.mktemp("p") / "plain", episodes[:5], episodes[5:])


@pytest.fixture(scope="module")
def labelled(plain, tmp_path_factory):
    """Labels of the brightness labeller, in words of the grammar and in free ones."""
    out = tmp_path_factory.mktemp("l") / "labelled"
    asking = Asking((TOUCHING, "Is the star in the air?"), starts=12, per_frame=2)
    label_folder(plain, out, FrameLabeller(brightness, "brightness"), asking)
    return out


def test_stored_labels_are_what_the_labeller_said_of_the_later_frame(labelled, plain):
    """Frames carry their number, so every label can be checked from its place."""
    before = {e.episode: e for e in read_episodes(plain)}
    episodes = read_episodes(labelled)
    checked = 0
    for episode in episodes:
        assert episode.image == before[episode.episode].image
        labels = episode.labels
        for t, h, said, sure in zip(
            labels.t, labels.horizon, labels.answer, labels.confidence
        ):
            assert t + h > 4 and sure == np.float32(0.95)
            assert said == ("yes" if (t + h) % 2 == 0 else "no")
            checked += 1
    assert checked > 100


def test_labelling_again_gives_the_same_and_continues(labelled, plain, tmp_path):
    asking = Asking((TOUCHING, "Is the star in the air?"), starts=12, per_frame=2)
    labeller = FrameLabeller(brightness, "brightness")
    label_folder(plain, tmp_path / "again", labeller, asking)
    for path in labelled.glob("*array_record*"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert label_folder(plain, labelled, labeller, asking) == (0, 0)
    other = dataclasses.replace(asking, seed=1)
    with pytest.raises(DataError, match=r"asking\.seed is 0 there, 1 here"):
        label_folder(plain, labelled, labeller, other)


def test_batches_from_labels_are_true_to_them(labelled):
    tokens = Tokenizer.load("tiny")
    model = get_config("tiny", max_question_tokens=24)
    config = Data(images=6, questions=2, queries=5)
    stream = make_train_iterator(labelled, config, tokens, model, seed=0)
    known = {
        (e.episode, int(t), int(h), q): a
        for e in read_episodes(labelled)
        for t, h, q, a in zip(
            e.labels.t, e.labels.horizon, e.labels.question, e.labels.answer
        )
    }
    actions = {e.episode: e.action for e in read_episodes(labelled)}
    seen = []
    for batch in (next(stream) for _ in range(10)):
        for b, r in np.argwhere(batch.answer_mask[..., 0]):
            number, t = (int(x) for x in batch.image[b, :2, 0, 0])
            h = int(batch.query_horizon[b, r])
            asked = tokens.decode(batch.question_tokens[b, batch.query_question[b, r]])
            said = tokens.decode(batch.answer_tokens[b, r])
            assert known[number, t, h, asked] == said
            np.testing.assert_array_equal(
                batch.actions[b, :h], actions[number][t : t + h]
            )
            seen.append(said)
    assert len(seen) > 100 and 0.35 < np.mean(np.array(seen) == "yes") < 0.65


def test_rare_answers_are_drawn_as_often_as_common_ones(tmp_path):
    """One yes in twenty, and yet a third of the batches' answers or more."""
    rng = np.random.default_rng(0)

    def labels():
        answers = ["yes" if rng.random() < 0.05 else "no" for _ in range(40)]
        zero = np.zeros(40, np.int32)
        return Labels(
            t=rng.integers(0, 20, 40).astype(np.int32),
            horizon=zero,
            question=[TOUCHING] * 40,
            answer=answers,
            confidence=np.ones(40, np.float32),
        )

    episodes = [plain_episode(n, width=2, labels=labels()) for n in range(8)]
    data = write(tmp_path / "rare", episodes, [])
    config = Data(images=8, questions=1, queries=1)
    tokens, model = Tokenizer.load("tiny"), get_config("tiny")
    stream = make_train_iterator(data, config, tokens, model, seed=0)
    (yes,) = tokens.encode("yes")
    said = np.concatenate([next(stream).answer_tokens[:, 0, 0] for _ in range(40)])
    assert 0.33 < (said == yes).mean() < 0.67


@pytest.mark.parametrize(
    ("domain", "text", "type"),
    [
        ("cube", BOTH, "cubes_touching"),
        ("board", BOTH, "block_touching"),
        ("language_table", BOTH, "block_touching"),
        ("other", BOTH, None),
        ("other", TOUCHING, "peg_touching"),
        ("other", "Is the red cube grasped?", "cube_grasped"),
        ("cube", TOUCHING, None),
        ("other", "Is the lid on?", None),
    ],
)  # fmt: skip
def test_a_labelled_question_counts_as_its_own_domains(domain, text, type):
    """A recording that may be of either world is counted as neither's."""
    counted = type_of_text(text, domain, 99)
    assert counted == (
        99
        if type is None
        else {k.name: k.id for k in worlds.question_types().values()}[type]
    )


def test_predicates_label_what_the_poses_say(board):
    episodes = load_episodes(board)
    where = np.arange(6), np.full(6, 3), np.full(6, 5)
    said, sure = PredicateLabeller()(episodes, *where, [TOUCHING] * 6)
    slot = 0  # the red moon
    apart = np.linalg.norm(
        episodes.block_pose[:, 8, slot, :2] - episodes.peg[:, 8], axis=-1
    )
    assert said == ["yes" if d < TOUCH else "no" for d in apart]
    assert (sure == 1).all()


def test_predicates_label_distances_with_the_nearest_bin(board):
    episodes = load_episodes(board)
    asked = BOARD.question("peg_distance", "red moon")
    where = np.arange(6), np.full(6, 3), np.full(6, 5)
    said, _ = PredicateLabeller()(episodes, *where, [asked.text] * 6)
    metres = np.linalg.norm(
        episodes.block_pose[:, 8, 0, :2] - episodes.peg[:, 8], axis=-1
    )
    values = np.array(asked.kind.answers.values)
    nearest = abs(metres[:, None] - values).argmin(1)
    assert said == [asked.answers[i] for i in nearest]
    assert len(set(said)) > 2


def test_a_model_chooses_among_the_bins_of_a_distance(board):
    config = get_config("tiny", max_question_tokens=24, **SMALL)
    params = jax.jit(SemanticWorldModel(config).init_params)(jax.random.key(0))
    world, tokens = VLMWorldModel(params, config), Tokenizer.load("tiny")
    asked = BOARD.question("peg_distance", "red moon")
    texts = [TOUCHING, asked.text, "Is it dark?", asked.text]
    where = np.arange(4), np.full(4, 3), np.full(4, 5)
    said, sure = vqa_labeller(world, tokens)(load_episodes(board), *where, texts)
    assert {said[0], said[2]} <= {"no", "yes"}
    assert {said[1], said[3]} <= set(asked.answers)
    assert ((sure > 0) & (sure <= 1)).all()


def test_predicates_agree_with_themselves_in_every_type(board):
    found = measure(load_episodes(board, "val"), PredicateLabeller(), 200)
    assert found.right.all() and len(np.unique(found.type_id)) > 8
    assert "100.0 %" in table(found).splitlines()[1]


def test_a_guesser_agrees_with_half_of_the_balanced_questions(board):
    def guess(images, questions):
        return ["yes"] * len(images), np.ones(len(images))

    found = measure(load_episodes(board, "val"), FrameLabeller(guess), 400)
    assert 0.4 < found.right.mean() < 0.6
    np.testing.assert_array_equal(found.right, found.truth == 1)


def test_our_model_is_asked_about_the_future_frame_without_actions(board):
    """Its labels are its own answers to the later frame at horizon 0."""
    config = get_config("tiny", **SMALL)
    params = jax.jit(SemanticWorldModel(config).init_params)(jax.random.key(0))
    world, tokens = VLMWorldModel(params, config), Tokenizer.load("tiny")
    episodes = load_episodes(board)
    where = np.array([0, 3]), np.array([2, 4]), np.array([6, 0])
    said, sure = vqa_labeller(world, tokens)(episodes, *where, [TOUCHING] * 2)
    for i, (e, t, h) in enumerate(zip(*where)):
        alone = world.answer(episodes.image(e, t + h), [], TOUCHING, tokenizer=tokens)
        assert said[i] == alone.text
        np.testing.assert_allclose(sure[i], alone.probability, rtol=1e-4)


def test_change_is_not_asked_of_who_sees_the_later_frame_alone(plain, tmp_path):
    asking = Asking((MOVED,))
    with pytest.raises(DataError, match="asks what changed"):
        label_folder(plain, tmp_path / "x", FrameLabeller(brightness), asking)


def test_predicates_are_refused_where_there_is_no_scene(plain, tmp_path):
    with pytest.raises(DataError, match="domain 'other' has no predicates"):
        label_folder(plain, tmp_path / "x", PredicateLabeller(), Asking((TOUCHING,)))


@pytest.mark.parametrize(
    "change, match",
    [
        ({"questions": ()}, "no questions"),
        ({"min_confidence": 2.0}, "min_confidence is 2.0"),
        ({"starts": 0}, "expected at least one"),
    ],
)
def test_what_cannot_be_asked_is_refused(plain, tmp_path, change, match):
    asking = dataclasses.replace(Asking((TOUCHING,)), **change)
    with pytest.raises(DataError, match=match):
        label_folder(plain, tmp_path / "x", FrameLabeller(brightness), asking)


def test_unknown_labellers_are_refused():
    with pytest.raises(DataError, match="expected predicates, vqa or module:function"):
        load_labeller("no_module:nothing")


def test_command_labels_with_a_function_of_the_users(plain, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def always(images, questions):\n"
        "    return ['yes'] * len(images), [0.9] * len(images)\n"
    )
    (tmp_path / "asked.txt").write_text("# of the peg\nIs the lid on?\n\nIs it dark?\n")
    assert read_questions(tmp_path / "asked.txt") == ("Is the lid on?", "Is it dark?")
    command = [sys.executable, "-m", "data_pipelines.label", plain, tmp_path / "out"]
    command += [f"--questions={tmp_path / 'asked.txt'}", "--labeller=mine:always"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert "labels stored, 0 dropped" in done.stdout
    episode = read_episodes(tmp_path / "out")[0]
    assert set(episode.labels.answer) == {"yes"}
    np.testing.assert_array_equal(
        load_episodes(tmp_path / "out").image(0, 3), picture(0, 3)
    )
