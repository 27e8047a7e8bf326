"""Baseline world models by name, collected from the modules of this folder.

simulator   exact answers by simulation, the upper bound
random      random actions without a world model, the lower bound

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
    """Collects `BASELINES` of all modules of this folder.

    Raises:
      ValueError: a name in two modules.
    """
    found: dict[str, Baseline] = {}
    for module in pkgutil.iter_modules(__path__, __name__ + "."):
        given = getattr(importlib.import_module(module.name), "BASELINES", {})
        if twice := sorted(found.keys() & given.keys()):
            raise ValueError(f"{module.name} redefines the baseline {twice[0]!r}")
        found |= given
    return found


def load(name: str, env: Env) -> Answerer:
    """Makes the baseline of a name for an env.

    Raises:
      ValueError: an unknown name; the message suggests the nearest.
    """
    return baselines()[known("baseline", name, baselines())].make(env)
