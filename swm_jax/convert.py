"""Converts checkpoints between Hugging Face, big_vision and Orbax.

    python -m swm_jax.convert paligemma-3b-pt-224 models/paligemma
    python -m swm_jax.convert models/paligemma pt_224.npz --dtype bfloat16
    python -m swm_jax.convert runs/swm for_others --format hugging_face

The source's format is told by its content. A destination that ends in `.npz` becomes
a big_vision file, any other one our Orbax folder, unless `--format` says otherwise.
Every tensor must be accounted for, or nothing is written.
"""

import sys
import time

from absl import app, flags, logging

from swm_jax.checkpoints import CheckpointError
from swm_jax.checkpoints.convert import convert, listing, source_bytes, summary
from swm_jax.checkpoints.formats.detect import FORMATS, open_source
from swm_jax.checkpoints.formats.lazy_arrays import DTYPES

_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "List what would be read, and stop.")
flags.DEFINE_alias("dry-run", "dry_run")
_FORMAT = flags.DEFINE_enum("format", None, FORMATS, "Of the destination.")
_DTYPE = flags.DEFINE_enum("dtype", None, tuple(DTYPES), "Default: as stored.")
_VARIANT = flags.DEFINE_string("variant", None, "Of an npz; default: by its shapes.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "SentencePiece model, or a folder with tokenizer.model."
)
_OVERRIDE = flags.DEFINE_multi_string(
    "override", [], "A config field of the result, such as layout=full."
)
_CHECK = flags.DEFINE_boolean("check_finite", True, "Refuse NaN and infinity.")


class Progress:
    """Prints share, rate and time left, every few seconds."""

    def __init__(self, total: int):
        self.total, self.done = total, 0
        self.began = self.told = time.monotonic()

    def __call__(self, count: int) -> None:
        """Counts bytes."""
        self.done += count
        now = time.monotonic()
        if now - self.told >= 5:
            self.told, rate = now, self.done / (now - self.began)
            left = max(self.total - self.done, 0) / rate
            print(
                f"  {self.done / 1e9:.1f} of {self.total / 1e9:.1f} GB, "
                f"{rate / 1e6:.0f} MB/s, {left:.0f} s left",
                flush=True,
            )


def parse_overrides(texts: list[str]) -> dict:
    """`name=value` texts as config fields; numbers where they look like numbers."""
    values = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise CheckpointError(f"--override {text!r}: expected name=value")
        if name in ("variant", "tokenizer", "check_finite", "read"):
            raise CheckpointError(f"--override {text!r}: there is a flag for it")
        for kind in (int, float):
            try:
                value = kind(value)
                break
            except ValueError:
                continue
        values[name] = {"True": True, "False": False}.get(value, value)
    return values


def main(argv: list[str]) -> None:
    """Opens the source, says what it is, converts it, says where the result lies."""
    wanted = 1 if _DRY_RUN.value else 2
    if len(argv) - 1 not in (wanted, 2):
        raise app.UsageError(f"expected SRC and DST, got {argv[1:]}")
    logging.set_verbosity(logging.ERROR)  # Orbax tells every file it touches
    try:
        source = open_source(
            argv[1],
            variant=_VARIANT.value,
            tokenizer=_TOKENIZER.value,
            check_finite=_CHECK.value,
            read=not _DRY_RUN.value,
            **parse_overrides(_OVERRIDE.value),
        )
        if _DRY_RUN.value:
            print(listing(source))
            return
        print(summary(source), flush=True)
        began, total = time.monotonic(), source_bytes(source)
        result = convert(source, argv[2], _FORMAT.value, _DTYPE.value, Progress(total))
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    print(f"written in {time.monotonic() - began:.1f} s: {result}")


if __name__ == "__main__":
    app.run(main)
