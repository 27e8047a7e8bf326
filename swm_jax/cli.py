"""The flag `--config`, whose mistakes end a command in one line."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from absl import app, flags
from ml_collections import config_flags


def define_config(default: str | None, words: str) -> flags.FlagHolder:
    """Defines `--config`, a Python file, and `--config.FIELD` for its fields.

    Args:
      default: file; None if one must be given.
      words: help of the flag.
    """
    with _one_line():  # a default's fields are set at once
        return config_flags.DEFINE_config_file("config", default, words)


def read_flags(argv: Sequence[str]) -> list[str]:
    """absl's parser, for `app.run(main, flags_parser=read_flags)`."""
    with _one_line():
        rest = app.parse_flags_with_usage(argv)
        config = flags.FLAGS["config"].value
        if config is not None:
            config.keys()  # of a file that cannot be read: raises only now
        return rest


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except AttributeError as error:
        # ml_collections hands on a KeyError that says what comes close.
        if not (error.args and isinstance(error.args[0], KeyError)):
            raise
        reason = " ".join(str(error.args[0].args[0]).split())
        sys.exit(f"error: no such field of the config: {reason}")
    except OSError as error:
        sys.exit(f"error: --config: {str(error).strip().splitlines()[-1].strip()}")
