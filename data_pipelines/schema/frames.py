"""Frame stores: frames decoded in memory, compressed in memory, or on disk.

    memory       decoded, 28 kB a frame at 96 px; the fastest to draw
    compressed   PNG or JPEG files in memory, about 2 kB a frame, decoded when drawn
    disk         read and decoded when drawn; for data larger than memory

A store is indexed like an array uint8[F, h, w, 3] and is thread-safe.

Axis: F frames of all episodes of a split, one episode after the other.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from array_record.python import array_record_module
from jaxtyping import Int, UInt8
from PIL import Image

from data_pipelines.schema.episode import DataError, open_frame
from data_pipelines.schema.features import Example
from swm_jax.choices import first_line

MODES = ("memory", "compressed", "disk")


class FrameStore:
    """Array-like store of encoded frames, decoded on access.

    Attributes:
      shape: (F, h, w, 3).
      dtype: uint8.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        fetch: Callable[[int], bytes],
        count: int,
        size: tuple[int, int],
        resize: bool = False,
    ):
        """Frames `fetch(0) .. fetch(count - 1)` of `size` (height, width).

        Frames of another size are an error, or resized if `resize`.
        """
        self._fetch, self._resize = fetch, resize
        self.shape = (count, *size, 3)

    def __len__(self) -> int:
        """F."""
        return self.shape[0]

    def __getitem__(
        self, index: int | slice | Int[np.ndarray, "..."]
    ) -> UInt8[np.ndarray, "... h w 3"]:
        """Decoded frames.

        Raises:
          DataError: a frame cannot be decoded or has another size.
        """
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        index = np.asarray(index)
        result = np.empty((index.size, *self.shape[1:]), np.uint8)
        for row, i in enumerate(index.reshape(-1)):
            result[row] = self.decode(int(i))
        return result.reshape(*index.shape, *self.shape[1:])

    def decode(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decoded frame `i`; raises a DataError."""
        return decode_as(self._fetch(i), self.shape[1:3], self._resize, f"frame {i}")


def decode_as(
    file: bytes, size: tuple[int, int], resize: bool, name: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a frame to a size (height, width); other sizes are resized if `resize`.

    Raises:
      DataError: a file that cannot be decoded, or a frame of another size; the message
        begins with `name`.
    """
    picture = open_frame(file, name)
    if (picture.height, picture.width) != size and resize:
        height, width = size
        picture = picture.resize((width, height), Image.Resampling.BOX)
    image = np.asarray(picture)
    if image.shape != (*size, 3):
        raise DataError(f"{name} has shape {image.shape}, expected {(*size, 3)}")
    return image


class RecordFrames:
    """Reader of frame files from the records of ArrayRecord shards.

    A record is an episode. Each thread caches its last record, since a batch often
    draws several frames of an episode.
    """

    def __init__(
        self,
        places: Sequence[tuple[Path, int]],
        first: Int[np.ndarray, " bounds"],
    ):
        """Episode i is record `places[i]`; its frames are `first[i]..first[i + 1]`."""
        self._places, self._first = places, np.asarray(first)
        self._local = threading.local()

    def __call__(self, i: int) -> bytes:
        """The file of frame `i`."""
        row = int(np.searchsorted(self._first, i, "right")) - 1
        return self._frames(row)[i - int(self._first[row])]

    def _frames(self, row: int) -> Sequence[bytes]:
        kept = getattr(self._local, "kept", None)
        if kept is None or kept[0] != row:
            path, index = self._places[row]
            try:
                record = self._reader(path).read([index])[0]
                example = Example.FromString(record)
            except (RuntimeError, OSError, ValueError) as error:
                reason = first_line(error)
                raise DataError(f"{path} record {index}: {reason}") from error
            kept = row, example.features.feature["image"].bytes_list.value
            self._local.kept = kept
        return kept[1]

    def _reader(self, path: Path):
        readers = self._local.__dict__.setdefault("readers", {})
        if path not in readers:
            readers[path] = array_record_module.ArrayRecordReader(str(path))
        return readers[path]
