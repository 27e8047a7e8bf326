"""The planners by name, gathered from the modules of this folder.

random           draws actions and asks nobody, the lower bound
random_shooting  many uniform chunks, the best one
best_of_n        one population, the best of it
best_of_proposals  the same over what a base policy proposes, and nothing else
mppi, cem        populations fitted to the last one's values
icem             CEM with the tricks of Pinneri et al. (2020), at their settings
gradient         several starts climb the logit margin
hybrid           CEM, then the best few climb
mppi_published, gradient_published
                 as Semantic World Models (arXiv 2510.19818) ran them

A module's `PLANNERS` maps names to presets (`swm_jax.planning.preset`).
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from swm_jax.choices import known
from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.planner import Planner
from swm_jax.planning.preset import Preset

_DEFAULT_ACTIONS: Mapping[str, Any] = MappingProxyType({})
_COUNTS = ("keep", "elites", "refine", "refine_steps")


def gather() -> dict[str, Preset]:
    """The planners of all modules of this folder.

    Raises:
      ValueError: two modules give one name to their planners.
    """
    found: dict[str, Preset] = {}
    for module in pkgutil.iter_modules(__path__, __name__ + "."):
        for name, preset in importlib.import_module(module.name).PLANNERS.items():
            if name in found:
                raise ValueError(f"{module.name} names a planner {name!r}, as another")
            found[name] = preset
    return found


PLANNERS = gather()


def get_planner(
    name: str, actions: Mapping[str, Any] = _DEFAULT_ACTIONS, **overrides
) -> Planner:
    """Builds a planner by name.

    Args:
      name: one of `PLANNERS`.
      actions: settings that suit the actions of a robot, such as their number and the
        spread of their noise; those that this planner does not use change nothing.
      overrides: fields of `PlannerConfig` that differ from the named default.

    Raises:
      ValueError: unknown name or field, a field that this planner does not use, or a
        value out of bounds.
    """
    preset = PLANNERS[known("planner", name, PLANNERS)]
    fields = [field.name for field in dataclasses.fields(PlannerConfig)]
    for field in overrides:
        known("planner setting", field, fields)
    used = preset.used_settings(**overrides)
    if unused := [field for field in overrides if field not in used]:
        raise ValueError(
            f"planner {name!r} does not use {', '.join(unused)}; it uses "
            f"{', '.join(field for field in fields if field in used)}"
        )
    # No bound on candidates follows from counts that this planner does not use.
    settings = dict.fromkeys([field for field in _COUNTS if field not in used], 0)
    settings |= {**actions, **overrides}
    config = dataclasses.replace(preset.config, **settings)
    if "elites" in used and not config.elites:
        raise ValueError(f"planner {name!r} fits to its elites and needs at least 1")
    return Planner(name, config, preset.solve, preset.needs_gradient)
