"""Planners by name, collected from the modules of this folder.

random             random actions, the lower bound
random_shooting    best of one population of uniform chunks
best_of_n          best of one population of coloured noise and strokes
best_of_proposals  best of one population of base-policy proposals and noise around them
mppi, cem          iterated populations, see `sampling`
icem               CEM with the additions and settings of Pinneri et al. (2020)
gradient           gradient ascent on the logit margin from several starts
hybrid             CEM, then gradient ascent from the best candidates
mppi_published, gradient_published
                   settings of Semantic World Models (arXiv 2510.19818)

A module's `PLANNERS` maps names to presets (`swm_jax.planning.preset`).
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from swm_jax.choices import gathered, known
from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.planner import Planner
from swm_jax.planning.preset import Preset

_DEFAULT_ACTIONS: Mapping[str, Any] = MappingProxyType({})
_COUNTS = ("keep", "elites", "refine", "refine_steps")


def gather() -> dict[str, Preset]:
    """Collects `PLANNERS` of all modules of this folder, see `choices.gathered`."""
    hint = "searching(refit) makes one"
    return gathered(__name__, __path__, "PLANNERS", Preset, hint)


PLANNERS = gather()


def get_planner(
    name: str, actions: Mapping[str, Any] = _DEFAULT_ACTIONS, **overrides
) -> Planner:
    """Builds a planner by name.

    Args:
      name: one of `PLANNERS`.
      actions: settings for a robot's actions, such as `action_size` and `init_std`;
        unused ones are ignored.
      overrides: fields of `PlannerConfig` that differ from the planner's default.

    Raises:
      ValueError: unknown name or field, a field unused by this planner, or a value out
        of bounds.
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
    # Unused counts are zeroed, so that they put no lower bound on `candidates`.
    settings = dict.fromkeys([field for field in _COUNTS if field not in used], 0)
    settings |= {**actions, **overrides}
    config = dataclasses.replace(preset.config, **settings)
    if "elites" in used and not config.elites:
        raise ValueError(f"planner {name!r} fits to its elites and needs at least 1")
    return Planner(name, config, preset.solve, preset.needs_gradient)
