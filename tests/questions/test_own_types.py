"""Question types of one's own: what is wrong is said when the record is made."""

import dataclasses

import numpy as np
import pytest

from swm_jax import worlds
from swm_jax.envs import BLOCK_NAMES
from swm_jax.models import Tokenizer
from swm_jax.questions.types import Arg, QuestionType

BOARD = worlds.language("board")
BLOCK = Arg("block", BLOCK_NAMES)


def made(**changes):
    fields = dict(name="mine", id=950, args=(BLOCK,), rule=lambda now, then: then.peg)
    return QuestionType(**{**fields, "wordings": ("Is the {a} here?",), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(id="fifty"), "mine has id 'fifty', expected a whole number"),
        (dict(id=20), "mine has id 20, .* none of .19, 20, 21"),
        (dict(args=BLOCK), "mine has args=.*, expected a tuple of Arg"),
        (dict(args=("block",)), "mine has args=.*, expected a tuple of Arg"),
        (
            dict(wordings="Is it?"),
            "mine has wordings='Is it.', expected a tuple",
        ),
        (dict(wordings=()), "expected a tuple of str"),
        (dict(wordings=("Is the {b} here?",)), "names .'b'., its arguments are .'a'."),
    ],
)
def test_a_field_of_another_kind_is_named_with_its_type(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


@pytest.mark.parametrize("field", ["id", "name"])
def test_two_types_of_one_id_or_name_are_named(field):
    other = made(**{field: getattr(BOARD.kind("block_moved"), field)})
    with pytest.raises(ValueError, match=rf"block_moved and .* have one {field}"):
        dataclasses.replace(BOARD, types=(*BOARD.types, other))


def test_few_wordings_of_one_type_take_none_from_the_others():
    language = dataclasses.replace(BOARD, types=(*BOARD.types, made()))
    assert language.phrasings == BOARD.phrasings
    table = language.table((0, 1), ("mine", "block_moved"))
    texts = np.array(table.texts()).reshape(len(table), -1)
    mine = table.type_id == 950
    assert {len(set(row)) for row in texts[mine]} == {1}
    assert {len(set(row)) for row in texts[~mine]} == {BOARD.phrasings}
    assert Tokenizer.load("tiny").encode(texts[0][0])
