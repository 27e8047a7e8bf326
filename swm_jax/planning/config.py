"""Planner settings: one frozen dataclass for all planners.

Axes: H actions of a chunk, A action width, N candidates, I iterations, E candidates
kept, K candidates refined by gradient.
"""

import dataclasses
from numbers import Integral, Real
from typing import Literal

from swm_jax.planning.goals.value import SCORES, Score
from swm_jax.planning.protocol import Normalise

OPTIMIZERS = ("sgd", "adam")
_AT_LEAST = {
    **dict.fromkeys(("horizon", "sub_chunk", "action_size", "execute"), 1),
    **dict.fromkeys(("candidates", "iterations"), 1),
    **dict.fromkeys(("keep", "carry", "elites", "refine", "refine_steps"), 0),
    **dict.fromkeys(("init_std", "min_std", "gradient_clip", "noise_exponent"), 0),
}
_KINDS = {int: (Integral, "a whole number"), float: (Real, "a number")}
_POSITIVE = ("action_limit", "temperature", "margin_scale", "learning_rate")
_SHARES = ("stroke_fraction", "fresh_fraction", "around_kept", "momentum")


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Settings of all planners; hashable, hence static under jit.

    Attributes:
      horizon: H, actions per chunk.
      sub_chunk: questions are asked after every `sub_chunk` actions.
      action_size: A.
      action_limit: candidates are clamped to +- this (metres per step).
      candidates: N, per iteration; number of starts of a gradient planner.
      iterations: I, populations per replan; steps of a gradient planner.
      execute: actions carried out before the next replan.
      score: ranking of candidates, see `swm_jax.planning.goals.value`.
      objective: score maximised by gradients; None for `score`. A saturated probability
        has a vanishing gradient, the logit margin does not and ranks alike per
        question.
      normalise: "answers", or "vocabulary" for the published probabilities.
      margin_scale: logits at which the score `tanh_margin` saturates.
      init: first population: "noise", "uniform" over the box (published), or
        "proposals": those of the base policy, then noise around each in turn.
      init_std: standard deviation of the first population (metres per step).
      min_std: lower bound of the standard deviation.
      noise_exponent: colour of the noise, see `coloured_noise`.
      stroke_fraction: share of strokes in the first population (`noise.strokes`).
      fresh_fraction: share of the first population drawn around zero actions instead
        of around the last plan.
      keep: E, best candidates of a population copied into the next one.
      carry: best candidates of the last population, shifted by the executed actions,
        copied into the first population of the next replan (iCEM).
      mean_last: add the mean to the last population (iCEM).
      around_kept: share of later populations drawn around single kept candidates
        instead of around the mean, which preserves several modes.
      warm_start: start from the last plan, shifted by the executed actions.
      temperature: MPPI, see `temperature_unit`.
      temperature_unit: "value" (published), or "spread": temperature times the
        standard deviation of the population's values, which suits any goal.
      elites: CEM, number of best candidates that mean and spread are fitted to.
      momentum: CEM, weight of the previous mean and spread.
      optimizer: gradient, "sgd" or "adam".
      learning_rate: gradient; metres per unit of gradient (sgd), metres per step
        (adam).
      gradient_clip: limit on the norm of a whole chunk's gradient, 0 for none.
      best_seen: gradient; rank the best chunk of each trajectory as well as its end
        (published: the end only).
      refine: K, best candidates that a hybrid planner refines by gradient.
      refine_steps: gradient steps of that refinement.

    Raises:
      ValueError: a value out of bounds, in one line.
    """

    horizon: int = 16
    sub_chunk: int = 8
    action_size: int = 2
    action_limit: float = 0.03
    candidates: int = 64
    iterations: int = 4
    execute: int = 4
    score: Score = "log_probability"
    objective: Score | None = None
    normalise: Normalise = "answers"
    margin_scale: float = 4.0
    init: Literal["noise", "uniform", "proposals"] = "noise"
    init_std: float = 0.02
    min_std: float = 0.004
    noise_exponent: float = 2.0
    stroke_fraction: float = 0.4
    fresh_fraction: float = 0.2
    keep: int = 4
    carry: int = 0
    mean_last: bool = False
    around_kept: float = 0.4
    warm_start: bool = True
    temperature: float = 0.3
    temperature_unit: Literal["value", "spread"] = "spread"
    elites: int = 8
    momentum: float = 0.1
    optimizer: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 0.004
    gradient_clip: float = 0.0
    best_seen: bool = True
    refine: int = 0
    refine_steps: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            kind, words = _KINDS.get(field.type, (object, ""))
            if not isinstance(value := getattr(self, field.name), kind):
                raise ValueError(f"planner {field.name} must be {words}, got {value!r}")
        for name, known in (
            ("score", SCORES),
            ("objective", (None, *SCORES)),
            ("normalise", ("answers", "vocabulary")),
            ("init", ("noise", "uniform", "proposals")),
            ("temperature_unit", ("value", "spread")),
            ("optimizer", OPTIMIZERS),
        ):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"unknown {name} {value!r}, expected one of {known}")
        for name, least in _AT_LEAST.items():
            if not least <= (value := getattr(self, name)) < float("inf"):
                raise ValueError(f"planner {name} must be >= {least}, got {value}")
        for name in _POSITIVE:
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise ValueError(f"planner {name} must be positive, got {value}")
        for name in _SHARES:
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"planner {name} must be in 0..1, got {value}")
        if self.horizon % self.sub_chunk:
            raise ValueError(
                f"planner horizon {self.horizon} must be a multiple of sub_chunk "
                f"{self.sub_chunk}"
            )
        if self.execute > self.horizon:
            raise ValueError(
                f"planner execute is {self.execute}, expected at most the horizon, "
                f"{self.horizon}"
            )
        for name in ("keep", "carry", "elites", "refine"):
            if getattr(self, name) > self.candidates:
                raise ValueError(
                    f"planner candidates {self.candidates} must be >= {name} "
                    f"{getattr(self, name)}"
                )

    @property
    def horizons(self) -> tuple[int, ...]:
        """Horizons of the questions: sub-chunk ends L, 2 L, .., H."""
        return tuple(range(self.sub_chunk, self.horizon + 1, self.sub_chunk))

    @property
    def candidates_per_replan(self) -> int:
        """Chunks scored per replan, without a gradient planner's final ranking."""
        return self.candidates * self.iterations + self.refine * self.refine_steps
