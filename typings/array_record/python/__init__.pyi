# Readers and writers are compiled, and the package comes without stubs.
from typing import Any

array_record_module: Any
