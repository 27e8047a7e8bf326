"""Configuration of an evaluation: axes of the sweep, settings of an episode, presets.

The axes (tasks, methods, world models, seeds) select episodes; a later call may extend
them in the same output folder. All other fields change the result of an episode and
are fixed within a folder: the journal compares `settings()`.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from swm_jax import worlds
from swm_jax.baselines import baselines
from swm_jax.choices import known
from swm_jax.planning import PLANNERS
from swm_jax.records import given

# Planners that need no base policy, of which an evaluation has none.
METHODS = tuple(n for n, p in PLANNERS.items() if p.config.init != "proposals")
WORLD_MODELS = ("swm", *baselines())
AXES = ("tasks", "methods", "world_models", "seeds")
UNCOMPARED = (*AXES, "preset", "episodes_parallel", "video", "numbers")


class UserError(Exception):
    """Invalid input; the message is one line: field, value seen, values expected."""


_known = functools.partial(known, error=UserError)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """One evaluation.

    Attributes:
      preset: name of the preset it started from.
      world: one of `worlds.names()`.
      tasks: task names of the world.
      methods: planners, see `METHODS`.
      world_models: models that answer the questions, see `WORLD_MODELS`.
      seeds: one episode per seed, task, method and world model.
      checkpoint: folder of the model; "" is the one shipped in the package.
      data_dir: data folder for held-out questions; "" makes scenes on the fly.
      goal: preset of the world's goals: "published" questions, or "shaped" with
        further questions in trained wordings.
      candidates: per iteration of a planner; 0 for the planner's default.
      iterations: of refinement; 0 for the planner's default. A replan evaluates
        candidates * iterations chunks.
      execute: actions executed per replan; 0 for the planner's default.
      planners: by method, settings that differ from the planner's defaults; the three
        fields above override them.
      max_steps: cap on the control steps of an episode; 0 for the task's own.
      episodes_parallel: episodes planned in one call.
      on_device: run physics (MJX), rendering and planning of whole episodes as one
        program.
      qa_episodes: held-out episodes that questions are drawn from.
      qa_queries: upper bound on the balanced (question, horizon) pairs.
      numbers: numeric question types to evaluate besides the yes/no questions, of the
        world's language.
      sensitivity_scenes: scenes per task for action sensitivity.
      sensitivity_candidates: action chunks ranked in each of these scenes.
      video: write a video per task.
    """

    preset: str = "demo"
    world: str = worlds.DEFAULT
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("mppi",)
    world_models: tuple[str, ...] = ("swm", "simulator", "random")
    # Seeds for development. The benchmark's seeds, 6000:6050, are for final figures
    # only, as tuning on them would bias the result.
    seeds: tuple[int, ...] = tuple(range(5000, 5005))
    checkpoint: str = ""
    data_dir: str = ""
    goal: str = "shaped"
    candidates: int = 0
    iterations: int = 0
    execute: int = 0
    planners: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    max_steps: int = 0
    episodes_parallel: int = 5
    on_device: bool = False
    qa_episodes: int = 48
    qa_queries: int = 3000
    numbers: tuple[str, ...] = ()
    sensitivity_scenes: int = 20
    sensitivity_candidates: int = 48
    video: bool = True

    def settings(self) -> dict:
        """Fields that change the result of an episode: all but `UNCOMPARED`."""
        fields = dataclasses.asdict(self)
        if not self.planners:  # absent in folders of older versions
            del fields["planners"]
        return {k: v for k, v in fields.items() if k not in UNCOMPARED}

    def cells(self) -> tuple[tuple[str, str, str], ...]:
        """Distinct (task, method, world_model) to run.

        Planning with random values and drawing random actions are the same policy, so
        all combinations with "random" on either axis become one cell.
        """
        cells = {}
        for task in self.tasks:
            for world_model in self.world_models:
                for method in self.methods:
                    if "random" in (method, world_model):
                        method = world_model = "random"
                    cells[task, method, world_model] = None
        return tuple(cells)


PRESETS = {
    "demo": {},
    "full": dict(
        methods=("mppi", "cem", "best_of_n"),
        seeds=tuple(range(6000, 6050)),
        episodes_parallel=10,
        qa_episodes=200,
        qa_queries=20_000,
        sensitivity_scenes=100,
        sensitivity_candidates=128,
    ),
}


def of_experiment(name: str, experiment: Any, **overrides) -> EvalConfig:
    """Evaluation of an experiment's planner in its world.

    Args:
      name: of the preset for fields that the experiment leaves open.
      experiment: a `swm_jax.training.Experiment`.
      overrides: fields that override the experiment's unless they are None.
    """
    settings = given(experiment.planner)
    method = settings.pop("name")
    fields = given(experiment.evaluation) | {
        "world": experiment.world,
        "methods": (method,),
        "planners": {method: settings} if settings else {},
    }
    fields |= {k: v for k, v in overrides.items() if v is not None}
    return preset(name, **fields)


def preset(name: str, **overrides) -> EvalConfig:
    """Validated configuration: a preset with all overrides that are not None."""
    _known("preset", name, PRESETS)
    asked = {k: v for k, v in overrides.items() if v is not None}
    name_of = _known("world", asked.get("world", worlds.DEFAULT), worlds.names())
    world = worlds.load(name_of)
    asked.setdefault("tasks", world.tasks.names)
    shipped = worlds.load(worlds.DEFAULT)
    if world.scene != shipped.scene and not asked.get("checkpoint"):
        asked.setdefault("world_models", ("simulator", "random"))
    config = EvalConfig(**{"preset": name, **PRESETS[name], **asked})
    if needy := [m for m in config.methods if m in PLANNERS and m not in METHODS]:
        raise UserError(
            f"--methods {needy[0]} ranks the proposals of a base policy, and an "
            "evaluation has none: plan with it from Python"
        )
    for axis, choices in (
        ("tasks", world.tasks.names),
        ("methods", METHODS),
        ("world_models", WORLD_MODELS),
    ):
        values = getattr(config, axis)
        if not values:
            raise UserError(f"--{axis} is empty, expected some of {', '.join(choices)}")
        for value in values:
            _known(axis.replace("_", " ")[:-1], value, choices)
    climbers = [m for m in config.methods if PLANNERS[m].needs_gradient]
    climbed = {model for _, method, model in config.cells() if method in climbers}
    flat = [n for n, b in baselines().items() if not b.differentiable]
    if without := [n for n in flat if n in climbed]:
        raise UserError(
            f"--methods {climbers[0]} climbs gradients, and the world model "
            f"{without[0]} has none; name it with --world_models swm"
        )
    _known("goal", config.goal, world.goals.presets)
    for field in ("candidates", "iterations", "execute", "max_steps"):
        _at_least(field, getattr(config, field), 0)
    for field in ("candidates", "iterations", "execute"):
        if getattr(config, field) and not any(_uses(m, field) for m in config.methods):
            raise UserError(
                f"--{field} {getattr(config, field)} changes nothing: "
                f"--methods {','.join(config.methods)} does not use it"
            )
    for field in ("episodes_parallel", "qa_episodes", "sensitivity_scenes"):
        _at_least(field, getattr(config, field), 1)
    return config


def _uses(method: str, field: str) -> bool:
    return field in PLANNERS[method].used_settings()


def _at_least(field: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"--{field} is {value}, expected {least} or more")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Distinct seeds of "6000:6050" (end excluded), "1,2,5" or a mix, in order."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?::\s*(\d+)\s*)?", part)
        if not match:
            raise UserError(
                f"--seeds {text!r}: cannot read {part.strip()!r}, expected numbers "
                "and ranges such as 6000:6050 (end excluded) or 1,2,5"
            )
        start = int(match[1])
        stop = start + 1 if match[2] is None else int(match[2])
        if stop <= start:
            raise UserError(
                f"--seeds {text!r}: the range {part.strip()!r} is empty, its end "
                "is excluded and must be above its start"
            )
        if stop > 2**31:
            raise UserError(f"--seeds {text!r}: seeds must be below 2**31")
        if stop - start > 1_000_000:
            raise UserError(f"--seeds {text!r}: {stop - start} seeds are too many")
        seeds.update(dict.fromkeys(range(start, stop)))
    return tuple(seeds)


def format_seeds(seeds: Sequence[int]) -> str:
    """Text of seeds as for `parse_seeds`, with consecutive ones as ranges."""
    parts, start = [], 0
    for i in range(1, len(seeds) + 1):
        if i < len(seeds) and seeds[i] == seeds[i - 1] + 1:
            continue
        first, last = seeds[start], seeds[i - 1]
        parts.append(f"{first}:{last + 1}" if last > first else str(first))
        start = i
    return ",".join(parts)
