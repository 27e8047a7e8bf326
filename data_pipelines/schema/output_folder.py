"""Output folders: lock against a second writer, check of settings, atomic writes."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from data_pipelines.schema.episode import SCHEMA_VERSION, DataError
from swm_jax.files import parse_json, read_text, replaced


@contextlib.contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Creates the folder and locks it against a second writer.

    Raises:
      DataError: it cannot be created, or another run has locked it.
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


def claim_settings(
    path: Path,
    wanted: Mapping[str, Any],
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> None:
    """Writes settings into a new folder, or compares them with those stored there.

    Args:
      path: of the settings' file.
      wanted: the settings.
      upgrade: converts stored settings of an older version to the current form.

    Raises:
      DataError: a folder with other files, or with data of other settings.
    """
    output = path.parent
    if path.exists():
        try:
            before = upgrade(parse_json(read_text(path)))
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}") from error
        if (output / "dataset_info.json").exists():
            # A finished folder of an older schema is readable: nothing to write.
            before["schema_version"] = SCHEMA_VERSION
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
    """Writes a file atomically: `write` fills a temporary file, which is then renamed.

    Raises:
      DataError: a failed write, e.g. a full disk; the temporary file is removed.
    """
    try:
        with replaced(path) as partial, open(partial, "wb") as file:
            write(file)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically."""
    text = json.dumps(content, indent=2, sort_keys=True)
    write_whole(path, lambda file: file.write(text.encode()))


def first_difference(old: Any, new: Any, name: str = "") -> tuple | None:
    """First difference of two nested dicts, by sorted name.

    For example ("planner.steps", 4, 8); None if they are equal.
    """
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return None if old == new else (name or "its content", old, new)
    for key in sorted({*old, *new}):
        child = f"{name}.{key}" if name else key
        found = first_difference(old.get(key), new.get(key), child)
        if found:
            return found
    return None
