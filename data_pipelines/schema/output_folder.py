"""Output folders: lock against a second writer, check of settings, atomic writes."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from data_pipelines.schema.episode import SCHEMA_VERSION, DataError
from swm_jax.files import parse_json, read_text, replaced
from swm_jax.locks import locked
from swm_jax.records import differences


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
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(output))
        except BlockingIOError as error:
            raise DataError(str(error)) from error
        yield


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


def first_difference(old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """First of `differences`; None if two nested mappings are equal."""
    for name, before, now in differences(old, new):
        return name or "its content", before, now
    return None
