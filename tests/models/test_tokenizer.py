"""The shipped tokenizer knows the whole question grammar, a token per word."""

import io
from importlib import resources

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import train_tokenizer
from swm_jax import worlds
from swm_jax.models import Tokenizer, get_config
from swm_jax.questions import corpus

BOARD = worlds.language("board")

TOKENIZER = Tokenizer.load("tiny")


def test_every_wording_survives_a_round_trip_and_fits_the_tiny_model():
    longest = 0
    for text in BOARD.corpus():
        ids = TOKENIZER.encode(text)
        assert TOKENIZER.decode(ids) == text
        assert len(ids) == len(text.replace("?", " ?").split()), text
        longest = max(longest, len(ids))
    assert longest <= get_config("tiny").max_question_tokens


@given(st.lists(st.sampled_from(BOARD.vocabulary()), min_size=1, max_size=12))
def test_any_sequence_of_words_is_a_token_per_word(words):
    text = " ".join(words).replace(" ?", "?")
    if text.startswith("?"):
        text = text[1:].lstrip() or "is"
    ids = TOKENIZER.encode(text)
    assert len(ids) == len(text.replace("?", " ? ").split())


def test_special_ids_are_the_config_s():
    config = get_config("tiny")
    TOKENIZER.check(config)
    assert (TOKENIZER.eos_id, TOKENIZER.bos_id, TOKENIZER.newline_id) == (1, 2, 4)
    special = {0, 1, 2, 3, 4}
    words = {TOKENIZER.encode(word)[0] for word in BOARD.vocabulary()}
    places = {TOKENIZER.location_id(i) for i in range(64)}
    assert len(words) == len(BOARD.vocabulary()) and len(places) == 64
    assert not (words & places or words & special or places & special)
    assert max(words | places) < TOKENIZER.vocab_size <= config.vocab_size


def test_location_tokens_are_written_and_read():
    text = "<loc0007><loc0031>"
    ids = [TOKENIZER.location_id(7), TOKENIZER.location_id(31)]
    assert TOKENIZER.encode(text) == ids
    assert TOKENIZER.decode(ids) == text
    with pytest.raises(ValueError, match=r"no location token <loc0064>"):
        TOKENIZER.location_id(64)


def test_batches_are_padded_right_and_masked():
    texts = ["Did the peg move?", "yes"]
    tokens, mask = TOKENIZER.encode_batch(texts, 6)
    assert tokens.dtype == np.int32 and mask.dtype == bool
    assert mask.sum(1).tolist() == [5, 1]
    assert (tokens[~mask] == 0).all() and (tokens[mask] != 0).all()
    assert [TOKENIZER.decode(row) for row in tokens] == texts
    with pytest.raises(ValueError, match=r"'Did the peg move\?' has 5 tokens.* 4 "):
        TOKENIZER.encode_batch(texts, 4)


def test_decoding_stops_at_eos():
    ids = [*TOKENIZER.encode("red moon"), TOKENIZER.eos_id, 99]
    assert TOKENIZER.decode(ids) == "red moon"


def test_unknown_words_are_spelled_and_unknown_characters_named():
    assert len(TOKENIZER.encode("zebra")) > 1
    with pytest.raises(ValueError, match=r"'月'.*'tiny' does not know"):
        TOKENIZER.encode("the red 月")
    (yes,), (no,) = TOKENIZER.encode("yes"), TOKENIZER.encode("no")
    assert yes != no


def test_a_model_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"more than the 100 rows of model 'tiny'"):
        TOKENIZER.check(get_config("tiny", vocab_size=100))
    with pytest.raises(ValueError, match=r"newline_id 4.*expects 108"):
        TOKENIZER.check(get_config("paligemma_3b_224"))


def test_files_that_are_no_tokenizers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer 'tony'.*did you mean 'tiny'"):
        Tokenizer.load("tony")
    path = tmp_path / "broken.model"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"broken.model is not a SentencePiece model"):
        Tokenizer.load(path)
    path.write_bytes(TOKENIZER.model)
    assert Tokenizer.load(path).encode("yes") == TOKENIZER.encode("yes")


@pytest.mark.parametrize("name, names", train_tokenizer.SHIPPED.items())
def test_training_again_gives_the_shipped_pieces(name, names):
    fresh, shipped = (
        Tokenizer(train_tokenizer.train(names), "f"),
        Tokenizer.load(name),
    )
    assert fresh.vocab_size == shipped.vocab_size
    for text in corpus([worlds.language(each) for each in names]):
        assert fresh.encode(text) == shipped.encode(text)
        assert len(shipped.encode(text)) <= 16


def test_a_tokenizer_is_read_from_an_object_store():
    stored = (resources.files("swm_jax.models") / "assets/tiny.model").read_bytes()
    place = "gs://bucket/run/tokenizer.model"
    store = epath.testing.mock_epath(
        exists=lambda _, path: str(path) == place,
        isdir=lambda _, path: False,
        open=lambda _, path, mode: io.BytesIO(stored),
    )
    with store:
        assert Tokenizer.load(epath.Path(place)).encode("red moon") == TOKENIZER.encode(
            "red moon"
        )
