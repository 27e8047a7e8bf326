"""World models beside ours by name, gathered from the modules of this folder.

simulator   told the truth, the upper bound
random      not asked at all, the lower bound

A module's `BASELINES` maps names to baselines (`answerer.Baseline`).
"""

import functools
import importlib
import pkgutil

from swm_jax.baselines.answerer import Answerer, Baseline
from swm_jax.choices import known
from swm_jax.envs import Env

__all__ = ["Answerer", "Baseline", "baselines", "load"]


@functools.cache
def baselines() -> dict[str, Baseline]:
    """The baselines of all modules of this folder.

    Raises:
      ValueError: two modules give one name to their baselines.
    """
    found: dict[str, Baseline] = {}
    for module in pkgutil.iter_modules(__path__, __name__ + "."):
        given = getattr(importlib.import_module(module.name), "BASELINES", {})
        if twice := sorted(found.keys() & given.keys()):
            raise ValueError(f"{module.name} names a baseline {twice[0]!r}, as another")
        found |= given
    return found


def load(name: str, env: Env) -> Answerer:
    """The baseline of a name, ready to be asked about an env.

    Raises:
      ValueError: there is none; the message suggests the nearest name.
    """
    return baselines()[known("baseline", name, baselines())].make(env)
