"""A folder that is being written: one writer at a time, one set of settings."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from data_pipelines.schema.episode import SCHEMA_VERSION, DataError
from swm_jax.files import replaced


@contextlib.contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Makes the folder and holds it against a second run at the same time.

    Raises:
      DataError: it cannot be made, or another run holds it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make folder {output}: {error.strerror}") from error
    handle = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another run is writing to {output} now") from error
        yield
    finally:
        os.close(handle)


def claim_settings(path: Path, wanted: Mapping[str, Any]) -> None:
    """Writes settings into a new folder, or compares them with an older run's.

    Raises:
      DataError: the folder holds something else, or data of other settings.
    """
    output = path.parent
    if path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}") from error
        if (output / "dataset_info.json").exists():
            before["schema_version"] = SCHEMA_VERSION  # finished: older is as good
        difference = first_difference(before, wanted)
        if difference:
            field, old, new = difference
            raise DataError(
                f"{output} holds data of another config: {field} is {old!r} there, "
                f"{new!r} here; choose another --output"
            )
        return
    half_written = f".{path.stem}.*.partial{path.suffix}"
    strangers = [p.name for p in output.iterdir() if not p.match(half_written)]
    if strangers:
        raise DataError(
            f"{output} is not empty ('{strangers[0]}') and has no {path.name}: "
            "choose another --output"
        )
    write_json(path, wanted)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Has `write` fill a file that gets its name when it is complete.

    Raises:
      DataError: it cannot be written (the disk is full, say); nothing is left of it.
    """
    try:
        with replaced(path) as partial, open(partial, "wb") as file:
            write(file)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def write_json(path: Path, content: Any) -> None:
    """`write_whole` of JSON."""
    text = json.dumps(content, indent=2, sort_keys=True)
    write_whole(path, lambda file: file.write(text.encode()))


def first_difference(old: Any, new: Any, name: str = "") -> tuple | None:
    """The first field, by name, in which two nested dicts differ."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return None if old == new else (name or "its content", old, new)
    for key in sorted({*old, *new}):
        child = f"{name}.{key}" if name else key
        found = first_difference(old.get(key), new.get(key), child)
        if found:
            return found
    return None
