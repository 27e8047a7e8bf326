"""Interface of readers: recordings before conversion to episodes of our schema.

A recording of N steps has N frames and N actions. The frame after the last action is
missing, so an episode keeps N - 1 of the actions.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

UNCOVERED = "no split"
"""Name under which `Source.splits` has the episodes that no split covers."""


@runtime_checkable
class Pictures(Protocol):
    """A number of pictures, uint8[h, w, 3] or PNG or JPEG files.

    A list, an array, or a reader that decodes while it is iterated over, and may then
    find damage and raise a DataError.
    """

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"] | bytes]: ...


@dataclasses.dataclass(frozen=True)
class RawEpisode:
    """One recording.

    Attributes:
      frames: N pictures.
      action: float32[N, A]; the last one is not used.
      state: name -> array with leading axis N, or once per episode, by domain.
      instruction, policy: texts.
    """

    frames: Pictures
    action: Float[np.ndarray, "N A"]
    state: Mapping[str, np.ndarray]
    instruction: str
    policy: str


@runtime_checkable
class Source(Protocol):
    """Interface of an opened data set of any format.

    Attributes:
      name: of format and version, for messages.
      domain: see `data_pipelines.schema.domains`.
      fps: frames per second; 0 if unknown.
      splits: names of the stored splits -> episode numbers; all numbers are distinct.
        Episodes that none of them covers are under `UNCOVERED`.

    A reader may have `notes`, lines for the user about what it chose.
    """

    @property
    def name(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def fps(self) -> float: ...
    @property
    def splits(self) -> Mapping[str, Sequence[int]]: ...

    def read(self, number: int) -> RawEpisode:
        """One episode; raises a DataError that names the damaged or missing part."""
        ...


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """Registration of a reader.

    Attributes:
      name: in one word.
      title: official name of the format.
      layout: typical file names, for messages.
      matches: whether a folder or file has this format.
      open: (path, camera, skipped, **options) -> source, see `open_source`.
      chosen: which of "camera", "action" and "state" have names that are chosen.
    """

    name: str
    title: str
    layout: str
    matches: Callable[[Path], bool]
    open: Callable[..., Source]
    chosen: tuple[str, ...] = ()
