"""Interface of readers: recordings before conversion to episodes of our schema.

A recording of N steps has N frames and N actions. The frame after the last action is
missing, so an episode keeps N - 1 of the actions.
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
      state: name -> array with leading axis N, or once per episode, by domain.
      instruction, policy: texts.
    """

    frames: Sequence[UInt8[np.ndarray, "h w 3"] | bytes]
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
      cameras: whether a data set may have several cameras.
    """

    name: str
    title: str
    layout: str
    matches: Callable[[Path], bool]
    open: Callable[..., Source]
    cameras: bool = False
