"""Words: print and parse are inverse; short and distinct; errors name the word."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swm_jax.envs import BLOCK_NAMES, COLOURS, SHAPES
from swm_jax.questions import (
    ALL_TYPES,
    ANSWERS,
    DIRECTIONS,
    OBJECT_NAMES,
    PHRASINGS,
    TYPES,
    Question,
    check_on_board,
    corpus,
    detection_prompt,
    parse,
    phrasings,
    question,
    question_table,
    region_prompt,
    type_arguments,
    vocabulary,
)
from swm_jax.worlds.board.scene import BLOCK_SETS

TABLE = question_table(range(len(BLOCK_NAMES)))


def test_types_keep_their_order():
    assert TYPES[:9] == (
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
    assert ANSWERS == ("no", "yes") and set(PHRASINGS) == set(ALL_TYPES)


@given(st.integers(0, len(TABLE) - 1), st.sampled_from([str, str.upper, str.lower]))
def test_parse_reads_what_print_wrote(row, style):
    for asked in phrasings(TABLE.question(row)):
        assert parse(style(asked.text)) == asked
        assert parse(f"  {asked.text[:-1]} ?") == asked


def test_no_two_questions_share_their_words():
    table = question_table()
    texts = [
        q.text.lower() for i in range(len(table)) for q in phrasings(table.question(i))
    ]
    assert len(set(texts)) == len(texts) >= 5 * len(table)


def test_canonical_wording():
    asked = question("block_touching", "red moon", "blue cube")
    assert asked.text == "Is the red moon touching the blue cube?"
    asked = question("block_direction", "red moon", "blue cube", "up left")
    assert asked.text == "Is the red moon on the top left side of the blue cube?"
    assert asked == question("block_direction", "red moon", "blue cube", "top left")
    assert asked.args == (
        BLOCK_NAMES.index("red moon"),
        BLOCK_NAMES.index("blue cube") * 8 + 7,
    )


def test_questions_fit_sixteen_tokens_and_the_language_is_small():
    table = question_table()
    longest = max(
        len(q.text.split())
        for i in range(len(table))
        for q in phrasings(table.question(i))
    )
    assert longest <= 14
    assert len(vocabulary()) <= 80


def test_the_corpus_holds_every_word():
    words = set(" ".join(corpus()).replace("?", " ?").split())
    table = question_table(range(20))
    rows = np.random.default_rng(0).choice(len(table), 300, replace=False)
    for row in rows:
        for asked in phrasings(table.question(row)):
            assert set(asked.text.replace("?", " ?").split()) <= words
    assert {*COLOURS, *SHAPES, "peg", "yes", "no", "?"} <= words == set(vocabulary())


def test_pretraining_prompts():
    assert detection_prompt("red moon") == detection_prompt(0) == "detect the red moon"
    assert detection_prompt(OBJECT_NAMES.index("peg")) == "detect the peg"
    assert region_prompt(0) == "describe the top left of the board"
    with pytest.raises(ValueError, match="did you mean 'red moon'"):
        detection_prompt("red mon")


def test_the_table_holds_every_question_about_its_blocks_once():
    ids = BLOCK_SETS["unseen"]
    table = question_table(ids)
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
    counts = np.bincount(table.type_id)
    assert dict(zip(TYPES, counts.tolist())) == expected
    asked = {table.question(i) for i in range(len(table))}
    assert len(asked) == len(table) == sum(expected.values())
    assert {b for q in asked for b in q.blocks} == set(ids)
    assert len(type_arguments("peg_moved", ids)) == 1


def test_names_in_any_wording_tell_the_arguments_apart():
    asked = parse("Is the left side of the green star where the red moon is?")
    assert asked.blocks == (
        BLOCK_NAMES.index("red moon"),
        BLOCK_NAMES.index("green star"),
    )
    assert DIRECTIONS[asked.args[1] % 8] == "left"


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
        parse(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="did you mean 'block_touching'"):
        Question("block_touch", (0, 1))
    with pytest.raises(
        ValueError, match=r"block_region takes arguments in \(0..19, 0..8\)"
    ):
        Question("block_region", (0, 9))
    with pytest.raises(ValueError, match=r"\(0..19, -1\)"):
        Question("peg_touching", (3, 2))
    with pytest.raises(ValueError, match="5 phrasings, got phrasing 5"):
        Question("peg_moved", (-1, -1), 5)
    with pytest.raises(ValueError, match="takes 2 names"):
        question("block_touching", "red moon")


def test_a_question_about_a_block_that_is_not_on_the_board_names_the_block():
    board = BLOCK_SETS["standard"]
    with pytest.raises(ValueError, match="the red cube, which is not on the board"):
        question("block_touching", "red moon", "red cube", on_board=board)
    with pytest.raises(ValueError, match="the purple cube"):
        check_on_board(question("peg_touching", "purple cube"), board)
    check_on_board(question("peg_moved"), ())
