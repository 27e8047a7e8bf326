"""Training of the shipped tokenizers on the languages of the worlds.

    python -m data_pipelines.train_tokenizer                     tiny: the board
    python -m data_pipelines.train_tokenizer --name=board_cube   both worlds
    python -m data_pipelines.train_tokenizer --types=blocks_distance,peg_distance \\
        --model_file=distances.model                             and numeric types

Byte pairs are merged until every word of the languages is one piece; letters and digits
are pieces too, so that other words can be spelled. The result is a pure function of the
languages: retraining reproduces the shipped file.
"""

import io
import string
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from absl import flags

from swm_jax import worlds
from swm_jax.cli import define_path, error_line, run_command
from swm_jax.files import write_whole
from swm_jax.models.tokenizer import Tokenizer
from swm_jax.questions import corpus, vocabulary

LOCATION_BINS = 64
MAX_PIECES = 512  # rows of the tiny model's embedding
SHIPPED = {"tiny": ("board",), "board_cube": ("board", "cube")}  # name -> worlds
_ASSETS = Path(__file__).parents[1] / "swm_jax/models/assets"

_NAME = flags.DEFINE_enum("name", "tiny", list(SHIPPED), "which tokenizer")
_TYPES = flags.DEFINE_list("types", [], "question types beside the default ones")
_MODEL_FILE = define_path("model_file", None, "where it goes; None: assets")


def train(names: Sequence[str] = SHIPPED["tiny"], types: Sequence[str] = ()) -> bytes:
    """Serialised SentencePiece model of the languages of some worlds.

    Args:
      names: of the worlds.
      types: names of question types besides the default ones.

    Ids: 0 pad, 1 eos, 2 bos, 3 unknown, 4 newline, then the location tokens, "?"
    and the pieces.

    Raises:
      RuntimeError: a word of the languages takes several pieces.
    """
    languages = [worlds.language(name) for name in names]
    words = vocabulary(languages, types)
    locations = [f"<loc{i:04d}>" for i in range(LOCATION_BINS)]
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*corpus(languages, types), *words]),
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
    broken = [word for word in words if len(tokenizer.encode(word)) != 1]
    if broken:
        raise RuntimeError(f"not one token: {', '.join(broken)}")
    return model


def main(_) -> None:
    """Trains a tokenizer and writes it to `--model_file`."""
    with error_line(ValueError, OSError):
        if _TYPES.value and not _MODEL_FILE.value:
            raise ValueError(
                "--types makes another tokenizer than the shipped one: say with "
                "--model_file where it goes"
            )
        output = Path(_MODEL_FILE.value or _ASSETS / f"{_NAME.value}.model")
        model = train(SHIPPED[_NAME.value], _TYPES.value)
        write_whole(output, model)
    print(f"{output}: {Tokenizer(model).vocab_size} pieces, {len(model):,} bytes")


if __name__ == "__main__":
    run_command(main)
