"""A planner under a name: how it finds a chunk, its settings, and which it reads.

    PLANNERS = {"my_planner": searching(refit, PlannerConfig(candidates=64))}

makes a planner of a function that fits the next population to the values of this one
(`search`); a module of `swm_jax.planning.planners` declares its planners so.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.planner import Solve
from swm_jax.planning.search import Refit, search

_ALL = frozenset({"horizon", "sub_chunk", "action_size", "action_limit", "execute"})
_ASKING = frozenset(
    {"candidates", "iterations", "score", "normalise", "init", "warm_start", "carry"}
)
# Of planners whose iterations draw a new population.
REDRAWING = frozenset(
    {"keep", "min_std", "mean_last", "around_kept", "init_std", "noise_exponent"}
)


@dataclasses.dataclass(frozen=True)
class Preset:
    """What stands behind the name of a planner.

    Attributes:
      solve: (problem, state, keys, config, proposals) -> (plan, info); None draws
        actions at random and asks nobody.
      config: its default settings.
      uses: settings that it reads besides those that every planner reads.
      needs_gradient: whether the world model must be differentiable.
    """

    solve: Solve | None
    config: PlannerConfig = dataclasses.field(default_factory=PlannerConfig)
    uses: frozenset[str] = frozenset()
    needs_gradient: bool = False

    def used_settings(self, **overrides: Any) -> frozenset[str]:
        """The fields of `PlannerConfig` that change what the planner does.

        Args:
          overrides: settings that differ; some decide whether others count.
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
        searches = getattr(self.solve, "func", None) is search
        if searches and get("iterations") > 1:
            used |= REDRAWING
        scores = get("score"), "objective" in used and get("objective")
        if "tanh_margin" in scores:
            used |= {"margin_scale"}
        return used


def searching(
    refit: Refit, config: PlannerConfig | None = None, uses: Iterable[str] = REDRAWING
) -> Preset:
    """A planner that searches by populations.

    Args:
      refit: (candidates [S, N, H, A], values [S, N], mean and std [S, H, A], config)
        -> mean and std of the next population. Candidates to be ignored have the
        value -inf.
      config: the planner's settings; None for the default ones.
      uses: settings that `refit` reads.
    """
    solve = functools.partial(search, refit=refit)
    return Preset(solve, config or PlannerConfig(), frozenset(uses))
