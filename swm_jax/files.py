"""Atomic file writes: to a temporary name, then renamed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from etils import epath

AnyPath: TypeAlias = Path | epath.Path
"""Path of a local file, or of one in an object store."""


@contextlib.contextmanager
def replaced(path: str | os.PathLike) -> Iterator[Path]:
    """Context manager that replaces `path` atomically.

    Yields a temporary path beside `path` with the same suffix. When the block ends, the
    file is synced to disk and renamed; when it raises, the temporary file is removed
    and `path` is unchanged. Missing parent folders are created.

    Raises:
      OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # With the process's number: two writers never share a temporary file.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_whole(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes bytes, or text as UTF-8, atomically (see `replaced`)."""
    with replaced(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
