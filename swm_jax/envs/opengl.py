"""MuJoCo, imported whether or not OpenGL is there, and the error of its absence.

MuJoCo imports the OpenGL that MUJOCO_GL names and fails without it, although physics
and our own renderer need none. It is imported without OpenGL then; whoever opens one of
its renderers is told why that cannot be.
"""

import importlib
import os
import sys

_NAME = "MUJOCO_GL"


def import_mujoco() -> str:
    """Imports MuJoCo; returns why its OpenGL is missing, or ""."""
    try:
        importlib.import_module("mujoco")
        return ""
    except Exception as error:  # each OpenGL binding raises its own kind
        wanted = os.environ.get(_NAME)
        if wanted is None or isinstance(error, ModuleNotFoundError):
            raise
        reason = f"{type(error).__name__}: {error}"
    # Modules that failed half-way would stay as they are.
    for name in [name for name in sys.modules if name.startswith("mujoco.rendering")]:
        del sys.modules[name]
    os.environ[_NAME] = "disable"
    try:
        importlib.import_module("mujoco")
    finally:
        os.environ[_NAME] = wanted
    return reason


MISSING = import_mujoco()


def no_opengl(error: BaseException) -> RuntimeError:
    """The error of a renderer that cannot be opened; names the variable to set."""
    return RuntimeError(
        f"no OpenGL context ({MISSING or error}); {_NAME} is "
        f"{os.environ.get(_NAME)!r}, expected egl or osmesa, with its library, on a "
        "host without a display, set before Python starts"
    )
