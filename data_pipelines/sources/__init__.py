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

NAMES = ("camera", "action", "state")  # what a user may choose, see `SourceKind.chosen`


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
      camera: name of the feature with the frames, for kinds with several.
      skipped: list to which a line is added per damaged part; None raises.
      **options: specific to the kind; `action` and `state` are names of features.

    Raises:
      DataError: unknown, damaged or incomplete data, or an invalid option.
    """
    kind = recognise(path)
    for flag, name in {"camera": camera, **options}.items():
        if flag in NAMES and name is not None and flag not in kind.chosen:
            raise DataError(
                f"{path} ({kind.name}) has one {flag} only, of a name that is fixed: "
                f"leave out --{flag}={name}"
            )
    options = {n: x for n, x in options.items() if n not in NAMES or x is not None}
    return kind.open(path, camera, skipped, **options)
