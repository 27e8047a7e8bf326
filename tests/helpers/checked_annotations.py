"""Checks arrays against their annotations while tests run: see `make test`.

Only shapes and dtypes are checked: the other types are a type checker's, which needs no
test to find them. Arguments are checked together with the result, after the call, so
that what a function refuses with a message of its own stays its own to refuse. Fields
are not checked when a struct is made, as JAX's transformations make structs of shapes,
shardings and batched tracers.
"""

import typing

import beartype
from jaxtyping import AbstractArray


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
