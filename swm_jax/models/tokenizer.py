"""SentencePiece tokenizers: the project's own, PaliGemma's or Gemma 3's.

The shipped model (`tiny`) is trained on the question grammar by
`python -m data_pipelines.train_tokenizer`: every word of the grammar is one token, "?"
and newline are tokens, `<loc0000>` .. `<loc0063>` are location bins, and other words
fall back to letters. `encode` adds no newline; the model inserts it between question
and answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int

from swm_jax.choices import did_you_mean
from swm_jax.files import AnyPath, pointer_hint, user_path
from swm_jax.models.config import ModelConfig
from swm_jax.models.types import PAD_TOKEN

TOKENIZER_FILE = "tokenizer.model"  # its name in a Hugging Face folder
_OTHER_FILE = "tokenizer.json"  # of the library tokenizers, which is no requirement

_ASSETS = Path(__file__).parent / "assets"


@runtime_checkable
class Tokenizes(Protocol):
    """Tokenizer interface used by goals and questions; `Tokenizer` implements it."""

    def encode_batch(
        self, texts: list[str], length: int
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def encode(self, text: str) -> list[int]: ...

    @property
    def eos_id(self) -> int: ...


class Tokenizer:
    """A SentencePiece vocabulary with the project's special tokens.

    Args:
      model: a serialised SentencePiece model.
      name: its name in error messages and checkpoints.

    Raises:
      ValueError: not a SentencePiece model, or its pad id is not `PAD_TOKEN`.
    """

    def __init__(self, model: bytes, name: str = "tokenizer"):
        self.name = name
        self.model = model
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(f"{name} is not a SentencePiece model") from error
        if self._pieces.pad_id() != PAD_TOKEN:
            raise ValueError(
                f"{name} pads with id {self._pieces.pad_id()}, expected {PAD_TOKEN}"
            )
        self._space = self._pieces.PieceToId("▁")

    @classmethod
    def load(cls, name_or_path: str | AnyPath = "tiny") -> "Tokenizer":
        """Loads a shipped tokenizer by name, or a SentencePiece model by path.

        Args:
          name_or_path: a name, a file, or a folder that holds `tokenizer.model`.

        Raises:
          ValueError: nothing there, or not a SentencePiece model.
        """
        path = user_path(name_or_path)  # may lie in an object store
        if (path / TOKENIZER_FILE).is_file():
            path = path / TOKENIZER_FILE
        other = path if path.name == _OTHER_FILE else path / _OTHER_FILE
        if other.is_file():
            raise ValueError(
                f"{other} is not read, only the SentencePiece model of the same "
                f"vocabulary: take {TOKENIZER_FILE} from the folder of the model that "
                "it was trained from"
            )
        if not path.is_file():
            known = shipped_tokenizers()
            if str(name_or_path) not in known:
                hint = did_you_mean(str(name_or_path), known)
                raise ValueError(
                    f"no tokenizer '{name_or_path}'{hint}: expected the path of a "
                    f"SentencePiece model or one of {', '.join(known)}"
                )
            path = _ASSETS / f"{name_or_path}.model"
        if hint := pointer_hint(path):
            raise ValueError(f"{path} {hint}")
        return cls(path.read_bytes(), str(name_or_path))

    @property
    def vocab_size(self) -> int:
        """Number of pieces; a model's vocabulary may have more rows."""
        return self._pieces.GetPieceSize()

    @property
    def eos_id(self) -> int:
        """Id of the token that ends an answer."""
        return self._pieces.eos_id()

    @property
    def bos_id(self) -> int:
        """Id of the token that begins a text; used by the `full` layout only."""
        return self._pieces.bos_id()

    @property
    def newline_id(self) -> int:
        """Id of the token that ends a question; 108 in PaliGemma's vocabulary.

        Raises:
          ValueError: the vocabulary has no such piece.
        """
        result = self._pieces.PieceToId("\n")
        if result == self._pieces.unk_id():
            raise ValueError(f"tokenizer '{self.name}' has no piece for a newline")
        return result

    @property
    def shipped(self) -> bool:
        """Whether the package ships a model of this name."""
        path = _ASSETS / f"{Path(self.name).name}.model"
        return path.is_file() and path.stem == self.name

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without bos, eos or newline.

        Raises:
          ValueError: the text holds a character that the vocabulary lacks.
        """
        ids = self._pieces.EncodeAsIds(text)
        # SentencePiece prepends a space; before a symbol such as <loc0000> it becomes
        # a token of its own, which training texts do not have.
        if ids and ids[0] == self._space and not text.startswith(" "):
            ids = ids[1:]
        if self._pieces.unk_id() in ids:
            unknown = [c for c in text if self._is_unknown(c)]
            raise ValueError(
                f"{text!r} holds {', '.join(map(repr, unknown))}, which tokenizer "
                f"'{self.name}' does not know"
            )
        return ids

    def encode_batch(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "n length"], Bool[np.ndarray, "n length"]]:
        """Ids of many texts, padded right to `length`, and a mask of real tokens.

        Raises:
          ValueError: a text has more than `length` tokens.
        """
        tokens = np.full((len(texts), length), PAD_TOKEN, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for row, text in enumerate(texts):
            ids = self.encode(text)
            if len(ids) > length:
                raise ValueError(
                    f"{text!r} has {len(ids)} tokens, longer than the {length} allowed"
                )
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return tokens, mask

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, up to eos; pads are skipped."""
        ids = [int(i) for i in ids]
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        return self._pieces.DecodeIds([i for i in ids if i != PAD_TOKEN])

    def location_id(self, index: int) -> int:
        """The id of the location token `<locNNNN>` of a bin."""
        name = f"<loc{index:04d}>"
        result = self._pieces.PieceToId(name)
        if result == self._pieces.unk_id():
            raise ValueError(f"tokenizer '{self.name}' has no location token {name}")
        return result

    def check(self, config: ModelConfig) -> None:
        """Raises a ValueError if the vocabulary or special ids do not fit a config."""
        if self.vocab_size > config.vocab_size:
            raise ValueError(
                f"tokenizer '{self.name}' has {self.vocab_size} pieces, more than the "
                f"{config.vocab_size} rows of model '{config.variant}'"
            )
        for special in ("eos_id", "bos_id", "newline_id"):
            if getattr(self, special) != getattr(config, special):
                raise ValueError(
                    f"tokenizer '{self.name}' has {special} {getattr(self, special)}, "
                    f"model '{config.variant}' expects {getattr(config, special)}"
                )

    def _is_unknown(self, character: str) -> bool:
        return self._pieces.unk_id() in self._pieces.EncodeAsIds(character)


def shipped_tokenizers() -> tuple[str, ...]:
    """Names of the tokenizers that come with the package."""
    return tuple(sorted(path.stem for path in _ASSETS.glob("*.model")))
