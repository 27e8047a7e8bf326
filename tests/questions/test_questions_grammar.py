"""Words: print and parse are inverse; short and distinct; errors name the word."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swm_jax import worlds
from swm_jax.envs import BLOCK_NAMES, COLOURS, SHAPES
from swm_jax.questions import YES_NO, Question, check_on_board
from swm_jax.questions.wordings import DIRECTIONS
from swm_jax.worlds.board.scene import BLOCK_SETS
from swm_jax.worlds.board.words import (
    OBJECT_NAMES,
    detection_prompt,
    region_prompt,
)

BOARD = worlds.language("board")
TABLE = BOARD.table(range(len(BLOCK_NAMES)))
STANDARD = BOARD.table(BLOCK_SETS["standard"])


def test_types_keep_their_order():
    assert tuple(BOARD.kind(i).name for i in range(9)) == (
        "block_touching",
        "peg_touching",
        "block_region",
        "block_direction",
        "blocks_closer",
        "peg_closer",
        "block_moved",
        "block_moved_direction",
        "peg_moved_direction",
    )
    assert YES_NO.answers == ("no", "yes")
    kinds = worlds.question_types()
    assert all(kind.id == i for i, kind in kinds.items())
    assert not {19, 20, 21} & set(kinds)  # queries that are no questions


@given(st.integers(0, len(TABLE) - 1), st.sampled_from([str, str.upper, str.lower]))
def test_parse_reads_what_print_wrote(row, style):
    for asked in TABLE.question(row).phrasings():
        assert BOARD.parse(style(asked.text)) == asked
        assert BOARD.parse(f"  {asked.text[:-1]} ?") == asked


def test_no_two_questions_share_their_words():
    texts = [text.lower() for text in STANDARD.texts()]
    assert len(set(texts)) == len(texts) == 5 * len(STANDARD)


def test_canonical_wording():
    asked = BOARD.question("block_touching", "red moon", "blue cube")
    assert asked.text == "Is the red moon touching the blue cube?"
    asked = BOARD.question("block_direction", "red moon", "blue cube", "up left")
    assert asked.text == "Is the red moon on the top left side of the blue cube?"
    assert asked == BOARD.question(
        "block_direction", "red moon", "blue cube", "top left"
    )
    names = BLOCK_NAMES.index("red moon"), BLOCK_NAMES.index("blue cube")
    assert asked.args == (*names, 7)
    assert BOARD.question("peg_moved_direction", "left").args == (6, -1, -1)


def test_questions_fit_sixteen_tokens_and_the_language_is_small():
    assert max(len(text.split()) for text in STANDARD.texts()) <= 14
    assert len(BOARD.vocabulary()) <= 80


def test_the_corpus_holds_every_word():
    words = set(" ".join(BOARD.corpus()).replace("?", " ?").split())
    rows = np.random.default_rng(0).choice(len(TABLE), 300, replace=False)
    for row in rows:
        for asked in TABLE.question(row).phrasings():
            assert set(asked.text.replace("?", " ?").split()) <= words
    assert (
        {*COLOURS, *SHAPES, "peg", "yes", "no", "?"} <= words == set(BOARD.vocabulary())
    )


def test_pretraining_prompts():
    assert detection_prompt("red moon") == detection_prompt(0) == "detect the red moon"
    assert detection_prompt(OBJECT_NAMES.index("peg")) == "detect the peg"
    assert region_prompt(0) == "describe the top left of the board"
    with pytest.raises(ValueError, match="did you mean 'red moon'"):
        detection_prompt("red mon")


def test_the_table_holds_every_question_about_its_blocks_once():
    ids = BLOCK_SETS["unseen"]
    table = BOARD.table(ids)
    expected = {
        "block_touching": 8 * 7,
        "peg_touching": 8,
        "block_region": 8 * 9,
        "block_direction": 8 * 7 * 8,
        "blocks_closer": 8 * 7,
        "peg_closer": 8,
        "block_moved": 8,
        "block_moved_direction": 8 * 8,
        "peg_moved_direction": 8,
        "peg_direction": 8 * 8,
        "peg_moved": 1,
        "blocks_apart": 8 * 7,
    }
    counts = zip(BOARD.select(), np.bincount(table.type_id).tolist())
    assert {kind.name: count for kind, count in counts} == expected
    asked = {table.question(i) for i in range(len(table))}
    assert len(asked) == len(table) == sum(expected.values())
    assert {b for q in asked for b in q.blocks} == set(ids)
    assert len(BOARD.kind("peg_moved").rows(ids)) == 1


def test_names_in_any_wording_tell_the_arguments_apart():
    asked = BOARD.parse("Is the left side of the green star where the red moon is?")
    assert asked.blocks == (
        BLOCK_NAMES.index("red moon"),
        BLOCK_NAMES.index("green star"),
    )
    assert DIRECTIONS[asked.args[2]] == "left"


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "Is the red mon touching the blue cube?",
            "'red mon', did you mean 'red moon'",
        ),
        ("Did the grren star move?", "did you mean 'green star'"),
        ("Did the peg move upwards?", "unknown direction 'upwards'"),
        ("Is the red moon in the middel of the board?", "unknown region 'middel'"),
        ("Is the red moon touching the red moon?", "'red moon' twice"),
        ("What is on the board?", "cannot read the question .*did you mean"),
        ("", "cannot read the question ''"),
    ],
)
def test_unreadable_questions_are_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        BOARD.parse(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="did you mean 'block_touching'"):
        BOARD.kind("block_touch")
    with pytest.raises(ValueError, match=r"block_region takes arguments 0..19, 0..8"):
        Question(BOARD.kind("block_region"), (0, 9))
    with pytest.raises(ValueError, match=r"0..19, got \(3, 2, -1\)"):
        Question(BOARD.kind("peg_touching"), (3, 2))
    with pytest.raises(ValueError, match="5 phrasings, got phrasing 5"):
        Question(BOARD.kind("peg_moved"), (), 5)
    with pytest.raises(ValueError, match="takes 2 names"):
        BOARD.question("block_touching", "red moon")


def test_a_question_about_a_block_that_is_not_on_the_board_names_the_block():
    board = BLOCK_SETS["standard"]
    with pytest.raises(ValueError, match="the red cube, which is not on the board"):
        BOARD.question("block_touching", "red moon", "red cube", on_board=board)
    with pytest.raises(ValueError, match="the purple cube"):
        check_on_board(BOARD.question("peg_touching", "purple cube"), board)
    check_on_board(BOARD.question("peg_moved"), ())
