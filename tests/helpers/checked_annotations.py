"""Checks arrays against their annotations while tests run: `addopts` in setup.cfg.

Only shapes and dtypes are checked, when a function is called and when it returns: the
other types are a type checker's, which needs no test to find them. Fields are not
checked when a struct is made, as JAX's transformations make structs of shapes,
shardings and batched tracers.
"""

import typing

import beartype
from jaxtyping import AbstractArray


def checked(function):
    """The function, which raises where an array is not as annotated."""
    if isinstance(function, type) or function.__name__ == "__init__":
        return function
    hints = function.__annotations__.items()
    function.__annotations__ = {name: hint for name, hint in hints if _arrays(hint)}
    return beartype.beartype(function)


def _arrays(hint) -> bool:
    """Whether a hint is of arrays, or of what holds some."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return issubclass(hint, AbstractArray)
    return any(map(_arrays, typing.get_args(hint)))
