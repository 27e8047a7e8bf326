"""Folders with one writer: a lock that ends with the process that holds it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Context that holds the lock of an existing folder.

    The system releases it when the process ends, however that happens. Object stores
    and file systems without locks have none: there it does nothing.

    Raises:
      BlockingIOError: another process holds it; the message names the folder.
    """
    if "://" in os.fspath(folder):
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another run is writing to {os.fspath(folder)} now: wait for its end, "
                "or choose another folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)
