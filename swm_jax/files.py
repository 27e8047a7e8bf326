"""Files that appear whole or not at all: written to a temporary name, then renamed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from etils import epath

AnyPath: TypeAlias = Path | epath.Path
"""Of a local file, or of one in an object store."""


@contextlib.contextmanager
def replaced(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, that becomes `path`.

    The file is synced to disk and renamed when the block ends; when the block raises,
    the temporary file is removed and `path` stays as it was. Folders are made.

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
    """Writes bytes, or text as UTF-8, through `replaced`."""
    with replaced(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
