# MuJoCo's classes and functions are compiled, and the package comes without stubs.
from typing import Any

def __getattr__(name: str) -> Any: ...
