"""TFRecord files and tf.Example records, without TensorFlow.

A record is: its length as a little-endian uint64, the masked CRC-32C of those eight
bytes, the data, the masked CRC-32C of the data. A checksum is masked by rotating it
right by 15 bits and adding a constant (TensorFlow, `core/lib/hash/crc32c.h`).
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

from data_pipelines.schema.episode import DataError
from data_pipelines.schema.features import Example
from swm_jax.choices import first_line
from swm_jax.files import pointer_hint

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_MASK = 0xA282EAD8


def masked_crc(data: bytes) -> int:
    """Masked CRC-32C of some bytes.

    Raises:
      DataError: google-crc32c is not installed.
    """
    try:
        import google_crc32c
    except ImportError as error:
        raise DataError(
            "TFRecord files need google-crc32c: pip install 'swm_jax[rlds]'"
        ) from error
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


class TFRecordFile:
    """Random access to the records of one file; opening it reads the headers only."""

    def __init__(self, path: Path):
        """Builds the index of the records' offsets.

        Raises:
          DataError: the file ends within a record, or a length is damaged.
        """
        self.path, self._places = path, []
        size, at = path.stat().st_size, 0
        with open(path, "rb") as file:
            while at < size:
                file.seek(at)
                header = file.read(_HEADER.size)
                if len(header) < _HEADER.size:
                    raise DataError(f"{path} ends within record {len(self._places)}")
                length, crc = _HEADER.unpack(header)
                if masked_crc(header[:8]) != crc:
                    hint = pointer_hint(path)
                    raise DataError(
                        f"{path} {hint}"
                        if hint
                        else f"{path} record {len(self._places)}: its length is damaged"
                    )
                end = at + _HEADER.size + length + _FOOTER.size
                if end > size:
                    raise DataError(f"{path} ends within record {len(self._places)}")
                self._places.append((at + _HEADER.size, length))
                at = end

    def __len__(self) -> int:
        """Number of records."""
        return len(self._places)

    def read(self, index: int) -> bytes:
        """The data of a record.

        Raises:
          DataError: a wrong checksum.
        """
        at, length = self._places[index]
        with open(self.path, "rb") as file:
            file.seek(at)
            data = file.read(length)
            (crc,) = _FOOTER.unpack(file.read(_FOOTER.size))
        if masked_crc(data) != crc:
            raise DataError(f"{self.path} record {index}: its checksum does not fit")
        return data


class ArrayRecordFile:
    """`TFRecordFile` for ArrayRecord, whose reader verifies checksums itself."""

    def __init__(self, path: Path):
        """Opens the file; raises a DataError if it is damaged."""
        self.path = path
        try:
            self._reader = array_record_module.ArrayRecordReader(str(path))
            self._count = self._reader.num_records()
        except (OSError, RuntimeError) as error:
            reason = pointer_hint(path) or f"is damaged ({first_line(error)})"
            raise DataError(f"{path} {reason}") from error

    def __len__(self) -> int:
        """Number of records."""
        return self._count

    def read(self, index: int) -> bytes:
        """The data of a record; raises a DataError if it is damaged."""
        try:
            return self._reader.read([index])[0]
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self.path} record {index} is damaged ({first_line(error)})"
            ) from error


def parse_example(data: bytes, name: str) -> Mapping[str, np.ndarray | list[bytes]]:
    """Features of a tf.Example by name: float32 or int64 arrays, or lists of bytes.

    Raises:
      DataError: other data than a tf.Example; the message begins with `name`.
    """
    try:
        example = Example.FromString(data)
    except Exception as error:  # protobuf's DecodeError moves between modules
        raise DataError(f"{name} is no tf.Example ({first_line(error)})") from error
    result = {}
    for key, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            result[key] = list(feature.bytes_list.value)
        elif kind == "float_list":
            result[key] = np.array(feature.float_list.value, np.float32)
        elif kind == "int64_list":
            result[key] = np.array(feature.int64_list.value, np.int64)
    return result
