"""Rows of the arrays of an `.npz` file, read in parts.

Members of a zip are streams: a part is found by reading up to it, compressed or not, so
that memory holds one part however large the file is. Parts in ascending order cost one
pass. Pickled arrays are never read.
"""

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from data_pipelines.schema.episode import DataError
from swm_jax.choices import first_line
from swm_jax.files import pointer_hint

_DAMAGE = (
    *(OSError, EOFError, ValueError, OverflowError, RuntimeError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


class NpzRows:
    """The arrays of a file by name.

    Attributes:
      path: the file.
      names: of its arrays.

    Raises:
      DataError: missing, damaged, or no npz.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            hint = pointer_hint(path)
            reason = hint or f"is damaged ({first_line(error)})"
            raise DataError(f"{path} {reason}") from error
        names = self._zip.namelist()
        self.names = [n.removesuffix(".npy") for n in names if n.endswith(".npy")]

    def __getitem__(self, name: str) -> "RowReader":
        """The array of that name; raises a DataError if its header is damaged."""
        return RowReader(self.path, self._zip, name)


class RowReader:
    """An array whose rows are read in parts.

    Attributes:
      shape, dtype: of the whole array.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, name: str):
        self._where, self._archive, self._name = f"{path}: {name}", archive, name
        try:
            self._stream: IO[bytes] = archive.open(f"{name}.npy")
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[np.lib.format.read_magic(self._stream)]
            self.shape, fortran, self.dtype = read(self._stream)
        except (*_DAMAGE, KeyError) as error:
            raise self._damaged(error) from error
        if self.dtype.hasobject:
            raise DataError(f"{self._where} is pickled, and pickles are never read")
        if fortran and len(self.shape) > 1:
            raise DataError(
                f"{self._where} is stored column by column, expected C order: save "
                "np.ascontiguousarray of it"
            )
        self._first = self._stream.tell()
        self._row = math.prod(self.shape[1:]) * self.dtype.itemsize
        size = archive.getinfo(f"{name}.npy").file_size - self._first
        whole = math.prod(self.shape) * self.dtype.itemsize
        if min(self.shape, default=0) < 0 or size != whole:
            raise DataError(
                f"{self._where} is damaged: {size} bytes for an array "
                f"{self.dtype}{list(self.shape)}"
            )

    def __len__(self) -> int:
        """Number of rows."""
        return max(self.shape[0], 0) if self.shape else 0

    def rows(self, start: int, end: int) -> np.ndarray:
        """Rows `start` to `end`, the end excluded.

        Raises:
          DataError: the file is damaged or cut off.
        """
        size = (end - start) * self._row
        try:
            # Backwards, the stream begins anew; forwards, it reads on.
            self._stream.seek(self._first + start * self._row)
            data = self._stream.read(size)
            if end == len(self):
                self._stream.read(1)  # the end, where the checksum is compared
        except _DAMAGE as error:
            raise self._damaged(error) from error
        if len(data) < size:
            raise DataError(f"{self._where} is cut off at row {start}")
        return np.frombuffer(data, self.dtype).reshape(end - start, *self.shape[1:])

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self._where} is damaged ({first_line(error)})")
