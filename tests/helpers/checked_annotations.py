"""Checks arrays against their annotations while tests run: see `make test`.

Only shapes and dtypes are checked: the other types are a type checker's, which needs no
test to find them. Arguments are checked together with the result, after the call, so
that what a function refuses with a message of its own stays its own to refuse. Fields
are not checked when a struct is made, as JAX's transformations make structs of shapes,
shardings and batched tracers.

jaxtyping's import hook decorates every function and checks every call, which takes
more time than much of what is tested. `jaxtyped` here takes that decorator's place when
this module is imported, by conftest.py: functions without arrays in their annotations
stay as they are, and a function is checked once for every combination of types, shapes
and dtypes that it is called with, since nothing else decides about the outcome.
"""

import collections.abc
import functools
import inspect
import threading
import types
import typing
from collections.abc import Callable
from typing import Any

import beartype
import jaxtyping
from jaxtyping import AbstractArray

_original = jaxtyping.jaxtyped
_result = threading.local()  # `value`: what the function just called has returned
_known: dict[Any, "_Check"] = {}


def jaxtyped(fn: Any = None, *, typechecker: Any) -> Any:
    """Decorator of the import hook; arguments as of `jaxtyping.jaxtyped`."""
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not isinstance(fn, types.FunctionType):  # a class: its fields are not checked
        return fn
    # A function within another one is made again and again; its check is not.
    same = fn.__code__, repr(fn.__annotations__)
    if same not in _known:
        _known[same] = _Check(fn, typechecker)
    check = _known[same]
    if not check.watches:
        return fn

    @functools.wraps(fn)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        out = fn(*args, **kwargs)
        check(args, kwargs, out)
        return out

    return call


class _Check:
    """Check of one function's arguments and result.

    Attributes:
      watches: whether any annotation is of arrays.
    """

    def __init__(self, fn: types.FunctionType, typechecker: Any):
        signature = inspect.signature(fn)
        hints = {
            name: _annotation(each.annotation, fn)
            for name, each in signature.parameters.items()
        }
        returned = _annotation(signature.return_annotation, fn)
        arrays = {name for name, hint in hints.items() if _arrays(hint)}
        self._returned = _arrays(returned)
        self.watches = bool(arrays) or self._returned
        # beartype looks at one item of a list, by chance: then at every call.
        self._each = any(map(_sampled, [*hints.values(), returned]))
        loose = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        kinds = {name: each.kind for name, each in signature.parameters.items()}
        named = [name for name, kind in kinds.items() if kind not in loose]
        self._order = [name in arrays for name in named]
        self._named = {name: name in arrays for name in named}
        self._rest = any(kinds[name] in loose for name in arrays)
        self._passed: set[Any] = set()
        self._probe: Callable | None = None  # made at the first call: it takes long
        self._make = lambda: _original(_echo(fn), typechecker=typechecker)

    def __call__(self, args: tuple, kwargs: dict, out: Any) -> None:
        __tracebackhide__ = True
        key = (
            len(args),
            tuple(
                _abstract(x)
                for i, x in enumerate(args)
                if (self._order[i] if i < len(self._order) else self._rest)
            ),
            tuple(
                (name, _abstract(x))
                for name, x in kwargs.items()
                if self._named.get(name, self._rest)
            ),
            _abstract(out) if self._returned else None,
        )
        if key in self._passed:
            return
        self._probe = self._probe or self._make()
        _result.value = out
        self._probe(*args, **kwargs)
        if not self._each:
            self._passed.add(key)


def _echo(fn: types.FunctionType) -> Callable:
    """A function of the same signature that returns `_result.value`."""

    def echo(*args, **kwargs):
        return _result.value

    # jaxtyping looks annotations in quotes up in the function's globals.
    scope = {**fn.__globals__, "_result": _result}
    return functools.wraps(fn)(types.FunctionType(echo.__code__, scope, fn.__name__))


def _annotation(hint: Any, fn: types.FunctionType) -> Any:
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, fn.__globals__)
    except Exception:  # of names that only a type checker imports
        return Any


def _abstract(x: Any) -> Any:
    """All of a value that a check of shapes and dtypes depends on."""
    shape = getattr(x, "shape", None)
    if shape is not None:
        return type(x), shape, getattr(x, "dtype", None)
    if isinstance(x, (tuple, list)):
        return (type(x), *map(_abstract, x))
    if isinstance(x, dict):
        return (type(x), *((key, _abstract(each)) for key, each in x.items()))
    if isinstance(x, (bool, int, float, complex, str)):
        return type(x), x
    return type(x)


def _sampled(hint: Any) -> bool:
    """Whether a hint is of arrays in a container of any length, or holds such a one."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    loose = isinstance(origin, type) and issubclass(origin, collections.abc.Iterable)
    loose = loose and (origin is not tuple or Ellipsis in parts)
    return bool(loose and _arrays(hint)) or any(map(_sampled, parts))


def checked(function):
    """The function that jaxtyping calls for a check; raises where one fails.

    Args:
      function: with the signature of what is checked. There are two: one with the
        arguments, called before, and one with the result as a further argument.
    """
    hints = function.__annotations__
    after = any(name.startswith("ret") and name != "return" for name in hints)
    if not after or function.__name__ == "__init__":
        return function
    function.__annotations__ = {k: hint for k, hint in hints.items() if _arrays(hint)}
    return beartype.beartype(function)


def _arrays(hint) -> bool:
    """Whether a hint is of arrays, or of what holds some."""
    if isinstance(hint, type) and not typing.get_args(hint):
        if not issubclass(hint, AbstractArray):
            return False
        hint.array_type = typing.Any  # numpy's or JAX's: for the type checker, too
        return True
    return any([_arrays(each) for each in typing.get_args(hint)])


jaxtyping.jaxtyped = jaxtyped
