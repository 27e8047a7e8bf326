"""Planner presets: solver, default settings and the settings it uses.

    PLANNERS = {"my_planner": searching(refit, PlannerConfig(candidates=64))}

in a module of `swm_jax.planning.planners` registers a population-based planner with the
update rule `refit` (see `search`).
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

from swm_jax.choices import known
from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.planner import Solve
from swm_jax.planning.search import Refit, search

_ALL = frozenset({"horizon", "sub_chunk", "action_size", "action_limit", "execute"})
_ASKING = frozenset(
    {"candidates", "iterations", "score", "normalise", "init", "warm_start", "carry"}
)
# Settings of planners that redraw the population in every iteration.
REDRAWING = frozenset(
    {"keep", "min_std", "mean_last", "around_kept", "init_std", "noise_exponent"}
)


@dataclasses.dataclass(frozen=True)
class Preset:
    """Definition of a named planner.

    Attributes:
      solve: (problem, state, keys, config, proposals) -> (plan, info); None draws
        random actions without the world model.
      config: default settings.
      uses: fields of `PlannerConfig` used beyond the common ones.
      needs_gradient: whether the world model must be differentiable.
      redraws: whether every iteration after the first draws a new population, and so
        uses the settings `REDRAWING`.
    """

    solve: Solve | None
    config: PlannerConfig = dataclasses.field(default_factory=PlannerConfig)
    uses: frozenset[str] = frozenset()
    needs_gradient: bool = False
    redraws: bool = False

    def used_settings(self, **overrides: Any) -> frozenset[str]:
        """The fields of `PlannerConfig` that change what the planner does.

        Args:
          overrides: settings that differ from the default; for example with
            `init="proposals"` no strokes are drawn, and `stroke_fraction` is unused.
        """
        if self.solve is None:
            return _ALL
        get = lambda field: overrides.get(field, getattr(self.config, field))
        used = _ALL | _ASKING | self.uses
        init = get("init")
        if init != "uniform":
            used |= {"init_std", "noise_exponent"}
        if init != "proposals":
            used |= {"stroke_fraction"}
        if init == "noise":
            used |= {"fresh_fraction"}
        if self.redraws and get("iterations") > 1:
            used |= REDRAWING
        scores = get("score"), "objective" in used and get("objective")
        if "tanh_margin" in scores:
            used |= {"margin_scale"}
        return used


def searching(
    refit: Refit, config: PlannerConfig | None = None, uses: Iterable[str] = REDRAWING
) -> Preset:
    """Preset of a population-based planner (`search`).

    Args:
      refit: (candidates [S, N, H, A], values [S, N], mean and std [S, H, A], config)
        -> mean and std of the next population. Candidates to ignore have value -inf.
      config: default settings; None for those of `PlannerConfig`.
      uses: settings that `refit` or the search reads. Counts that are not among them,
        such as `elites`, are set to 0; the others cannot be changed by name.

    Raises:
      ValueError: `uses` names something that is no setting.
    """
    uses, settings = frozenset(uses), PlannerConfig.__dataclass_fields__
    for setting in uses:
        known("planner setting", setting, settings)
    solve = functools.partial(search, refit=refit)
    return Preset(solve, config or PlannerConfig(), uses, redraws=True)
