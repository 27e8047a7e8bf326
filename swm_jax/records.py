"""Typed settings: frozen dataclasses parsed from a ConfigDict and validated.

    @dataclasses.dataclass(frozen=True)
    class Optimizer:
        name: Literal["adamw", "muon"] = "muon"
        learning_rate: Positive = 1e-3

    config = to_config(Optimizer())          # a ConfigDict, for `--config.name=adamw`
    parse(Optimizer, config)                 # Optimizer("adamw", 0.001)

Supported annotations: `int`, `float`, `bool`, `str`, `Literal`, tuples, mappings, other
records, unions of these, and `Annotated` with a `Range`. A record may check its fields
against each other in `__post_init__` (ValueError), and may customise parsing with a
class method `from_config`.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import ml_collections
from ml_collections import config_dict

from swm_jax import choices

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
_NO = object()  # sentinel: the value does not match the annotation (None may match)


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number: `Annotated[float, Range(0, 1)]`.

    Attributes:
      least, most: the smallest and the largest value allowed.
      above: every value must be larger than this.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def __contains__(self, value: float) -> bool:
        return math.isfinite(value) and (
            self.least <= value <= self.most and value > self.above
        )

    def __str__(self) -> str:
        if self.above > -math.inf:
            return f" above {self.above:g}"
        if self.most < math.inf:
            return f" from {self.least:g} to {self.most:g}"
        return f" from {self.least:g} on"


Count = Annotated[int, Range(1)]
Size = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**62)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(0)]


def parse(cls: type[Record], values: Any, where: str = "config") -> Record:
    """Builds a record from a config; missing fields take their defaults.

    Args:
      cls: a dataclass.
      values: ConfigDict or mapping of its fields; a `cls` is returned unchanged.
      where: name of the config, for messages.

    Raises:
      ValueError: an unknown field, or a value of another type, out of its range or of
        no known choice; one line that names field, value and what is expected.
    """
    if isinstance(values, cls):
        return values
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    kinds = typing.get_type_hints(cls, include_extras=True)
    known = [field.name for field in dataclasses.fields(cls)]
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}, expected some of {', '.join(known)}")
    given = {}
    for name, value in values.items():
        choices.known(f"field of {where}", name, known)
        given[name] = _read(kinds[name], value, f"{where}.{name}")
    try:
        return cls(**given)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def to_config(record: Any) -> ml_collections.ConfigDict:
    """All fields as a ConfigDict, to be changed by flags and experiments.

    A field that is None becomes a placeholder of its annotated type, so that
    `--config.field=3` is parsed as that type.
    """
    kinds = typing.get_type_hints(type(record), include_extras=True)
    values = {
        field.name: _plain(getattr(record, field.name), kinds[field.name])
        for field in dataclasses.fields(record)
    }
    return ml_collections.ConfigDict(values)


def given(record: Any) -> dict[str, Any]:
    """The fields of a record that are not None."""
    values = vars(record).items()
    return {name: value for name, value in values if value is not None}


def pairs(values: Any, where: str, example: str) -> tuple[tuple[str, Any], ...]:
    """A config's list of (regex, rule).

    Args:
      values: of the config.
      where: its name, for the message.
      example: an entry that would be right, for the message.

    Raises:
      ValueError: something else than a list of such pairs.
    """
    listed = isinstance(values, list | tuple)
    for entry in values if listed else (values,):
        pair = isinstance(entry, list | tuple) and len(entry) == 2
        if not listed or not pair or not isinstance(entry[0], str):
            raise ValueError(
                f"{where} holds {entry!r}, expected a list of pairs such as {example}"
            )
    return tuple((pattern, rule) for pattern, rule in values)


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Differences of two nested mappings, (name, old, new), sorted by name.

    For example ("planner.steps", 4, 8); what one of them lacks is None.
    """
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        if old != new:
            yield name, old, new
        return
    for key in sorted({*old, *new}):
        child = f"{name}.{key}" if name else str(key)
        yield from differences(old.get(key), new.get(key), child)


def optional(cls: type, /, without: Iterable[str] = (), **more: tuple[Any, Any]) -> Any:
    """A base class with the fields of a record, all optional and None by default.

    For example `class Overrides(optional(Settings, without=("name",)))`.

    Args:
      cls: the record.
      without: fields to leave out.
      more: additional fields, placed first, as (annotation, default).
    """
    kinds = typing.get_type_hints(cls, include_extras=True)
    fields = [(key, kind, default) for key, (kind, default) in more.items()]
    fields += [
        (field.name, kinds[field.name] | None, None)
        for field in dataclasses.fields(cls)
        if field.name not in without
    ]
    return dataclasses.make_dataclass(f"Optional{cls.__name__}", fields, frozen=True)


def _read(kind: Any, value: Any, where: str) -> Any:
    found = _as(kind, value, where)
    if found is _NO:
        names = [x for arm in _arms(kind) for x in _choices(arm)]
        if names and isinstance(value, str):
            choices.known(where, value, names)
        raise ValueError(f"{where} is {value!r}, expected {_words(kind)}")
    return found


def _as(kind: Any, value: Any, where: str) -> Any:
    """The value converted to its annotation, or `_NO` if it does not match."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        # Arms in order: `int | float` keeps whole numbers as int.
        found = (_as(arm, value, where) for arm in args)
        return next((each for each in found if each is not _NO), _NO)
    if origin is Annotated:
        found = _as(args[0], value, where)
        return _NO if found is _NO or any(found not in r for r in args[1:]) else found
    if origin is Literal:
        return value if value in args else _NO
    if kind is Any:
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if isinstance(value, kind) or value is None:
            return _NO if value is None else value
        return getattr(kind, "from_config", _parser(kind))(value, where)
    if kind is tuple or origin is tuple:
        if not isinstance(value, (list, tuple)):
            return _NO
        items = enumerate(value)
        return tuple(
            _read(args[0] if args else Any, x, f"{where}[{i}]") for i, x in items
        )
    if kind is bool:
        return value if isinstance(value, bool) else _NO
    if kind in (int, float):
        wanted = Integral if kind is int else Real
        number: Any = value
        # bool is a subclass of int: `steps=True` is an error, not 1.
        fits = isinstance(value, wanted) and not isinstance(value, bool)
        return kind(number) if fits else _NO
    if (origin or kind) is Mapping:
        return dict(value) if isinstance(value, Mapping) else _NO
    return value if isinstance(value, kind) else _NO


def _parser(cls: type) -> Any:
    return lambda value, where: parse(cls, value, where)


def _plain(value: Any, kind: Any) -> Any:
    """A field's value in the form stored in a ConfigDict."""
    if value is None:
        bases = [_base(arm) for arm in _arms(kind) if arm is not type(None)]
        typed = bases and bases[0] in (bool, int, float, str, tuple)
        return config_dict.placeholder(bases[0]) if typed else None
    if dataclasses.is_dataclass(value):
        own = getattr(value, "to_config", None)
        return own() if own else to_config(value)
    if isinstance(value, Mapping):
        return ml_collections.ConfigDict(dict(value))
    return value


def _arms(kind: Any) -> tuple[Any, ...]:
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def _base(kind: Any) -> Any:
    """The runtime type of an annotation: `Annotated[int, ...]` -> int."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _base(typing.get_args(kind)[0])
    return type(typing.get_args(kind)[0]) if origin is Literal else origin or kind


def _choices(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _words(kind: Any) -> str:
    """Description of an annotation's values for messages: "a number or None"."""
    words = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a text",
        tuple: "a tuple",
        Mapping: "a mapping",
        type(None): "None",
    }
    bounds = "".join(map(str, getattr(kind, "__metadata__", ())))
    parts = [
        ", ".join(map(str, _choices(arm)))
        or words.get(_base(arm), getattr(arm, "__name__", str(arm))) + bounds
        for arm in _arms(kind)
    ]
    return " or ".join(" or ".join(parts).rsplit(", ", 1))
