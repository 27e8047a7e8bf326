"""Metadata of others: JSON, JSON lines and parquet, with every field checked.

What a hand-made or half-converted data set lacks, or has in another type, is a
`DataError` that names the file, the field and the value.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.schema.episode import DataError
from swm_jax.choices import first_line
from swm_jax.files import lines_of, parse_json, pointer_hint, read_text

_LARGEST = 1e300


class Fields:
    """Named values of an entry of metadata; reading one checks its type.

    Args:
      values: by name.
      where: file and entry, for messages.

    Raises:
      DataError: `values` is no mapping.
    """

    def __init__(self, values: Any, where: str):
        if not isinstance(values, Mapping):
            raise DataError(f"{where} is {shown(values)}, expected named fields")
        self.values: Mapping[str, Any] = values
        self.where = where

    def text(self, name: str) -> str:
        """A text; raises a DataError for anything else."""
        value = self._need(name)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a text")
        return value

    def whole(self, name: str, least: int = 0) -> int:
        """A whole number of at least `least`; raises a DataError for anything else."""
        value = self._need(name)
        # A column with a null elsewhere holds its whole numbers as 3.0.
        is_whole = isinstance(value, float) and value.is_integer()
        if isinstance(value, bool) or not (isinstance(value, int) or is_whole):
            raise self._wrong(name, value, "a whole number")
        if not least <= value < 2**63:
            raise self._wrong(name, value, f"a whole number of at least {least}")
        return int(value)

    def number(self, name: str) -> float:
        """A finite number; raises a DataError for anything else."""
        value = self._need(name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not -_LARGEST <= value <= _LARGEST:
            raise self._wrong(name, value, "a finite number")
        return float(value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Named fields; raises a DataError for anything else."""
        value = self._need(name)
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "named fields")
        return value

    def _need(self, name: str) -> Any:
        value = self.values.get(name)
        if value is None:
            raise DataError(f"{self.where} lacks '{name}'")
        return value

    def _wrong(self, name: str, value: Any, expected: str) -> DataError:
        return DataError(f"{self.where}: {name} is {shown(value)}, expected {expected}")


def shown(value: Any) -> str:
    """A value in at most 60 characters of one line, for messages."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def json_fields(path: Path) -> Fields:
    """Fields of a JSON file.

    Raises:
      DataError: missing, or no JSON object.
    """
    return Fields(_parsed(path, _text(path)), str(path))


def json_lines(path: Path) -> list[Any]:
    """Values of a file with a JSON text per line.

    Raises:
      DataError: missing, or a line that is no JSON.
    """
    return [
        _parsed(f"{path} line {i}", line)
        for i, line in enumerate(lines_of(_text(path)), 1)
    ]


def parquet(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Any:
    """Columns of a parquet file as a pyarrow table.

    Args:
      path: the file.
      wanted: which columns, by name; others are not read.

    Raises:
      DataError: missing, damaged, or no pyarrow.
    """
    arrow = pyarrow()
    try:
        if not path.is_file():
            raise DataError(f"{path} is missing")
        with arrow.parquet.ParquetFile(path) as file:
            columns = list(filter(wanted, dict.fromkeys(file.schema_arrow.names)))
            # "action" also reads "action.x", as dots separate levels of nesting.
            return file.read(columns=columns).select(columns)
    except (OSError, arrow.ArrowException) as error:
        if hint := pointer_hint(path):
            raise DataError(f"{path} {hint}") from error
        raise DataError(f"{path} is damaged ({first_line(error)})") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read ({first_line(error)})") from error


def cells(table: Any, name: str, where: str) -> Sequence[Any]:
    """Values of a column.

    Raises:
      DataError: no such column, or values that cannot be decoded.
    """
    if name not in table.column_names:
        raise DataError(
            f"{where} lacks the column '{name}', it has {', '.join(table.column_names)}"
        )
    try:
        return table[name].to_pylist()
    except (ValueError, OverflowError, pyarrow().ArrowException) as error:
        raise DataError(
            f"{where}: column '{name}' cannot be read ({first_line(error)})"
        ) from error


def numbers(table: Any, name: str, where: str, dtype: Any = np.float64) -> np.ndarray:
    """A column of numbers or of lists of numbers, dtype[rows, ...].

    Raises:
      DataError: no such column, or other values than finite numbers in equal shapes.
    """
    values = cells(table, name, where)
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            found = np.array(values, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{where}: {name} cannot be read ({first_line(error)})"
        ) from error
    if not np.isfinite(found).all():
        raise DataError(f"{where}: {name} is not finite, expected finite numbers")
    return found


def pyarrow() -> Any:
    """The package; raises a DataError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "LeRobot data need pyarrow: pip install 'swm_jax[lerobot]'"
        ) from error
    return pyarrow


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({first_line(error)})") from error


def _parsed(where: Path | str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{where} is damaged ({first_line(error)})") from error
