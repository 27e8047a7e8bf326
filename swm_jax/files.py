"""Files of users and of ours: text whatever the locale, paths, atomic writes."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

AnyPath: TypeAlias = Path | epath.Path
"""Path of a local file, or of one in an object store."""

_LFS = b"version https://git-lfs.github.com/spec/"


def user_path(path: str | os.PathLike) -> AnyPath:
    """The path that a user meant: `~` is the home folder; `gs://` stays as it is."""
    text = os.fspath(path)
    if "://" in text:
        return epath.Path(text)
    return Path(os.path.expanduser(text))


def local_path(path: str | os.PathLike) -> Path:
    """`user_path` of what is written here, which no object store can hold.

    Raises:
      ValueError: the path of an object store, of which a folder `gs:` would be made.
    """
    if "://" in os.fspath(path):
        raise ValueError(f"{path} is in an object store, expected a local path")
    return Path(user_path(path))


def two_paths(path: str | os.PathLike, folder: str | os.PathLike) -> dict[str, str]:
    """A path as stored in a folder, so that it is found when either has moved.

    Returns:
      `absolute`, and `relative` to the folder where both are local.
    """
    if "://" in os.fspath(path):
        return {"absolute": os.fspath(path)}
    absolute = os.path.abspath(user_path(path))
    if "://" in os.fspath(folder):
        return {"absolute": absolute}
    here = os.path.abspath(user_path(folder))
    return {"absolute": absolute, "relative": os.path.relpath(absolute, here)}


def found_path(stored: Mapping[str, str], folder: str | os.PathLike) -> AnyPath | None:
    """The first of `two_paths` that is there; None if neither is."""
    places = []
    if "relative" in stored and "://" not in os.fspath(folder):
        places.append(Path(folder) / stored["relative"])
    places += [user_path(stored[key]) for key in ("absolute", "given") if key in stored]
    return next((place for place in places if place.exists()), None)


def read_text(path: str | os.PathLike) -> str:
    """Text of a UTF-8 file, whatever the locale; a byte order mark is dropped.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not UTF-8.
    """
    return epath.Path(path).read_bytes().decode("utf-8-sig")


def lines_of(text: str) -> list[str]:
    """Lines without surrounding space; empty ones are left out.

    Only a newline ends a line: `str.splitlines` also cuts at characters such as
    U+2028, which JSON allows inside a text.
    """
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line]


def parse_json(text: str) -> Any:
    """Value of a JSON text.

    Raises:
      ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def pointer_hint(path: str | os.PathLike) -> str:
    """What to do about a Git LFS pointer; "" for any other file.

    A clone without Git LFS has small text files in place of the large ones.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_LFS))
    except OSError:
        return ""
    if start != _LFS:
        return ""
    return (
        "is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder, "
        "or download it again"
    )


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
