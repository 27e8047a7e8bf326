"""What a reader of foreign data gives, before it becomes an episode of our schema.

A recording of N steps has N frames and N actions; the last action leads to a frame
nobody stored, so an episode keeps N - 1 of them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8


@dataclasses.dataclass(frozen=True)
class RawEpisode:
    """One recording.

    Attributes:
      frames: N pictures, uint8[h, w, 3] or PNG or JPEG files.
      action: float32[N, A]; the last one is not used.
      state: name -> array with leading axis N, or once per episode, as the domain says.
      instruction, policy: texts.
    """

    frames: Sequence[UInt8[np.ndarray, "h w 3"] | bytes]
    action: Float[np.ndarray, "N A"]
    state: Mapping[str, np.ndarray]
    instruction: str
    policy: str


@runtime_checkable
class Source(Protocol):
    """A data set in somebody's layout.

    Attributes:
      name: of the kind and version, for people.
      domain: see `data_pipelines.schema.domains`.
      fps: frames per second; 0 if unknown.
      splits: names of the stored splits -> episode numbers; all numbers are distinct.
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
        """One episode; raises a DataError that names what is damaged or missing."""
        ...


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """A kind of data set that can be read.

    Attributes:
      name: in one word.
      title: its name as its makers write it.
      layout: the files by which people know it.
      matches: whether a folder or file is of this kind.
      open: (path, camera, skipped, **options) -> source, see `open_source`.
      cameras: whether there may be several to choose from.
    """

    name: str
    title: str
    layout: str
    matches: Callable[[Path], bool]
    open: Callable[..., Source]
    cameras: bool = False
