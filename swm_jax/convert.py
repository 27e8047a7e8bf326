"""Converts checkpoints between Hugging Face, big_vision and Orbax.

    python -m swm_jax.convert paligemma-3b-pt-224 models/paligemma
    python -m swm_jax.convert models/paligemma pt_224.npz --dtype bfloat16
    python -m swm_jax.convert runs/swm for_others --format hugging_face
    python -m swm_jax.convert peft_adapter merged --base paligemma-3b-pt-224

The source's format is detected by its content. A destination ending in `.npz` becomes a
big_vision file, others our Orbax folder, unless `--format` is given. If any tensor is
missing or left over, nothing is written.
"""

import time
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from swm_jax.checkpoints import CheckpointError
from swm_jax.checkpoints.convert import convert, listing, source_bytes, summary
from swm_jax.checkpoints.formats.detect import FORMATS, open_source
from swm_jax.checkpoints.formats.lazy_arrays import DTYPES
from swm_jax.cli import Progress, define_path, error_line, run_command

_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "List what would be read, and stop.")
flags.DEFINE_alias("dry-run", "dry_run")
_FORMAT = flags.DEFINE_enum("format", None, FORMATS, "Of the destination.")
_DTYPE = flags.DEFINE_enum("dtype", None, tuple(DTYPES), "Default: as stored.")
_VARIANT = flags.DEFINE_string("variant", None, "Of an npz; default: by its shapes.")
_TOKENIZER = define_path(
    "tokenizer", None, "SentencePiece model, or a folder with tokenizer.model."
)
_BASE = define_path("base", None, "Model of an adapter that PEFT wrote.")
_OVERRIDE = flags.DEFINE_multi_string(
    "override", [], "A config field of the result, such as layout=full."
)
_CHECK = flags.DEFINE_boolean("check_finite", True, "Refuse NaN and infinity.")


def counter(total: int) -> Callable[[int], None]:
    """A callback that sums copied bytes and shows progress in GB."""
    progress, done = Progress("converted", total / 1e9, "GB", quiet=5.0), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done / 1e9)

    return count


def parse_overrides(texts: list[str]) -> dict:
    """Parses `name=value` texts to config fields; values to bool, int, float or str."""
    values = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise CheckpointError(f"--override {text!r}: expected name=value")
        if name in ("variant", "tokenizer", "check_finite", "read", "base"):
            raise CheckpointError(f"--override {text!r}: there is a flag for it")
        read: Any = {"True": True, "False": False}.get(value, value)
        for kind in (int, float):
            try:
                read = kind(value)
                break
            except ValueError:
                continue
        values[name] = read
    return values


def main(argv: list[str]) -> None:
    """Opens the source, prints a summary, converts it, prints the result's path."""
    wanted = 1 if _DRY_RUN.value else 2
    if len(argv) - 1 not in (wanted, 2):
        raise app.UsageError(f"expected SRC and DST, got {argv[1:]}")
    logging.set_verbosity(logging.ERROR)  # Orbax logs every file
    with error_line(CheckpointError, ValueError, OSError):
        source = open_source(
            argv[1],
            base=_BASE.value,
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
        result = convert(source, argv[2], _FORMAT.value, _DTYPE.value, counter(total))
    print(f"written in {time.monotonic() - began:.1f} s: {result}")


if __name__ == "__main__":
    run_command(main)
