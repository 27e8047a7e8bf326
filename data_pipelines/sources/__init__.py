"""Readers of public data sets, and detection of a data set's format.

Every module of this folder with a `KIND` (`raw.SourceKind`) is registered as a reader.
"""

import functools
from pathlib import Path
from typing import Any

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.raw import RawEpisode, Source, SourceKind
from swm_jax.choices import modules_of

__all__ = ["RawEpisode", "Source", "SourceKind", "kinds", "open_source", "recognise"]


@functools.cache
def kinds() -> tuple[SourceKind, ...]:
    """Kinds of all readers in this folder."""
    found = modules_of(__name__, __path__)
    return tuple(each.KIND for each in found if hasattr(each, "KIND"))


def recognise(path: Path) -> SourceKind:
    """Kind of the data set at a path.

    Raises:
      DataError: no such path, or an unknown layout; lists the known ones.
    """
    if not path.exists():
        raise DataError(f"no data at {path}")
    for kind in kinds():
        if kind.matches(path):
            return kind
    layouts = ", ".join(f"{kind.layout} ({kind.title})" for kind in kinds())
    raise DataError(f"{path} is no data set that can be converted: expected {layouts}")


def open_source(
    path: Path,
    *,
    camera: str | None = None,
    skipped: list[str] | None = None,
    **options: Any,
) -> Source:
    """Opens a data set of any known kind.

    Args:
      path: its folder or file.
      camera: name of a camera, for kinds with several.
      skipped: list to which a line is added per damaged part; None raises.
      **options: specific to the kind.

    Raises:
      DataError: unknown, damaged or incomplete data, or an invalid option.
    """
    kind = recognise(path)
    if camera is not None and not kind.cameras:
        raise DataError(f"{path} ({kind.name}) has one camera only, got '{camera}'")
    return kind.open(path, camera, skipped, **options)
