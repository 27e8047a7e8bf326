"""The planners by name: the one place that knows them all.

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
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.gradient import climb, search_and_climb
from swm_jax.planning.planner import Planner, Solve
from swm_jax.planning.refits import refit_cem, refit_mppi, refit_nothing
from swm_jax.planning.search import search

_DEFAULT_ACTIONS: Mapping[str, Any] = MappingProxyType({})
_ONE_LOOK = PlannerConfig(candidates=256, iterations=1)

_UNIFORM = PlannerConfig(
    candidates=64,
    iterations=10,
    execute=2,
    score="probability",
    normalise="vocabulary",
    init="uniform",
    min_std=0.0,
    noise_exponent=0.0,
    stroke_fraction=0.0,
    fresh_fraction=0.0,
    keep=0,
    warm_start=False,
    temperature=1.5,
    temperature_unit="value",
)

# One proposal of the base policy (a uniform chunk without one) climbs probabilities
# by plain steps; where it arrives is what is carried out.
_PUBLISHED_GRADIENT = dataclasses.replace(
    _UNIFORM,
    candidates=1,
    elites=0,
    optimizer="sgd",
    learning_rate=0.02,
    gradient_clip=1.0,
    best_seen=False,
)

_MPPI = functools.partial(search, refit=refit_mppi)
_CEM = functools.partial(search, refit=refit_cem)
_BEST = functools.partial(search, refit=refit_nothing)
_HYBRID = functools.partial(search_and_climb, refit=refit_cem)

PLANNERS: dict[str, tuple[Solve | None, PlannerConfig]] = {
    "random": (
        None,
        PlannerConfig(candidates=2, iterations=1, keep=0, elites=0, init="uniform"),
    ),
    "random_shooting": (
        _BEST,
        dataclasses.replace(
            _ONE_LOOK, init="uniform", stroke_fraction=0.0, keep=0, warm_start=False
        ),
    ),
    "best_of_n": (_BEST, _ONE_LOOK),
    "best_of_proposals": (
        _BEST,
        dataclasses.replace(_ONE_LOOK, candidates=64, init="proposals", keep=0),
    ),
    "mppi": (_MPPI, PlannerConfig()),
    "mppi_published": (_MPPI, _UNIFORM),
    "cem": (_CEM, PlannerConfig()),
    "icem": (
        _CEM,
        PlannerConfig(
            init_std=0.015,  # half of the action limit
            min_std=0.0,
            stroke_fraction=0.0,
            fresh_fraction=0.0,
            around_kept=0.0,
            elites=10,
            keep=3,
            carry=3,
            mean_last=True,
        ),
    ),
    "gradient": (
        climb,
        PlannerConfig(candidates=8, iterations=12, objective="margin", keep=0),
    ),
    "gradient_published": (climb, _PUBLISHED_GRADIENT),
    "hybrid": (
        _HYBRID,
        PlannerConfig(iterations=3, objective="margin", refine=4, refine_steps=6),
    ),
}

_CLIMBERS = (climb, _HYBRID)
_COUNTS = ("keep", "elites", "refine", "refine_steps")


def climbs_gradients(name: str) -> bool:
    """Whether a planner needs a differentiable world model."""
    return PLANNERS[name][0] in _CLIMBERS


def starts_from_proposals(name: str) -> bool:
    """Whether a planner needs the proposals of a base policy."""
    return PLANNERS[name][1].init == "proposals"


def used_settings(name: str, **overrides) -> frozenset[str]:
    """The fields of `PlannerConfig` that change what a planner does.

    Args:
      name: one of `PLANNERS`.
      overrides: as for `get_planner`; some settings decide whether others count.
    """
    solve, config = PLANNERS[name]
    get = lambda field: overrides.get(field, getattr(config, field))
    used = {"horizon", "sub_chunk", "action_size", "action_limit", "execute"}
    if solve is None:
        return frozenset(used)
    used |= {"candidates", "iterations", "score", "normalise", "init", "warm_start"}
    used |= {"carry"}
    searches = solve is not climb
    refits = searches and (solve is not _BEST or get("iterations") > 1)
    if refits or get("init") != "uniform":
        used |= {"init_std", "noise_exponent"}
    if get("init") != "proposals":
        used |= {"stroke_fraction"}
    if get("init") == "noise":
        used |= {"fresh_fraction"}
    if refits:
        used |= {"keep", "min_std", "mean_last", "around_kept"}
    if solve is _MPPI:
        used |= {"temperature", "temperature_unit"}
    if solve in (_CEM, _HYBRID):
        used |= {"elites", "momentum"}
    if solve in _CLIMBERS:
        used |= {"objective", "optimizer", "learning_rate", "gradient_clip"}
        used |= {"best_seen"}
    if solve is _HYBRID:
        used |= {"refine", "refine_steps"}
    if "tanh_margin" in (get("score"), solve in _CLIMBERS and get("objective")):
        used |= {"margin_scale"}
    return frozenset(used)


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
    if name not in PLANNERS:
        raise ValueError(_unknown("planner", name, PLANNERS))
    solve, config = PLANNERS[name]
    fields = [field.name for field in dataclasses.fields(PlannerConfig)]
    for field in overrides:
        if field not in fields:
            raise ValueError(_unknown("planner setting", field, fields))
    used = used_settings(name, **overrides)
    if unused := [field for field in overrides if field not in used]:
        raise ValueError(
            f"planner {name!r} does not use {', '.join(unused)}; it uses "
            f"{', '.join(field for field in fields if field in used)}"
        )
    # No bound on candidates follows from counts that this planner does not use.
    settings = dict.fromkeys([field for field in _COUNTS if field not in used], 0)
    settings |= {**actions, **overrides}
    config = dataclasses.replace(config, **settings)
    if solve in (_CEM, _HYBRID) and not config.elites:
        raise ValueError(f"planner {name!r} fits to its elites and needs at least 1")
    return Planner(name, config, solve, needs_gradient=solve in _CLIMBERS)


def _unknown(what: str, name: str, known) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
    return f"unknown {what} {name!r}{hint}"
