"""Trains the shipped tokenizer on the question grammar.

    python -m data_pipelines.train_tokenizer [--model_file FILE]

Byte-pair pieces are merged until every word of the grammar is one piece; letters and
digits stay as pieces so that other words can be spelled. The result is a pure
function of the grammar: the shipped file and a fresh one are equal.
"""

import io
import os
import string
from pathlib import Path

import sentencepiece
from absl import app, flags

from swm_jax.models.tokenizer import Tokenizer
from swm_jax.questions import grammar

LOCATION_BINS = 64
MAX_PIECES = 512  # rows of the tiny model's embedding

_MODEL_FILE = flags.DEFINE_string(
    "model_file",
    str(Path(__file__).parents[1] / "swm_jax/models/assets/tiny.model"),
    "where the model goes",
)


def train() -> bytes:
    """A serialised SentencePiece model of the grammar.

    Ids: 0 pad, 1 eos, 2 bos, 3 unknown, 4 newline, then the location tokens, "?"
    and the pieces.

    Raises:
      RuntimeError: a word of the grammar did not become one piece.
    """
    locations = [f"<loc{i:04d}>" for i in range(LOCATION_BINS)]
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*grammar.corpus(), *grammar.vocabulary()]),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=MAX_PIECES,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        user_defined_symbols=["\n", *locations, "?"],
        required_chars=string.ascii_letters + string.digits + ".,'-",
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    model = buffer.getvalue()
    tokenizer = Tokenizer(model, "new")
    broken = [w for w in grammar.vocabulary() if len(tokenizer.encode(w)) != 1]
    if broken:
        raise RuntimeError(f"not one token: {', '.join(broken)}")
    return model


def main(_) -> None:
    """Writes the model to a temporary name, then renames it."""
    output = Path(_MODEL_FILE.value)
    model = train()
    part = output.with_suffix(".part")
    part.write_bytes(model)
    os.replace(part, output)
    print(f"{output}: {Tokenizer(model).vocab_size} pieces, {len(model):,} bytes")


if __name__ == "__main__":
    app.run(main)
