"""Goals by task and preset: what a world's `goals.py` declares.

A goal lists questions with the desired answers and their weights. Preset "published"
has the questions and weights of the Semantic World Models paper; "shaped" adds
questions in the same language that guide a planner which starts from noise instead of a
base policy. The number of questions of a preset depends only on the task and the number
of names, never on the scene, so that nothing recompiles.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swm_jax.choices import known
from swm_jax.questions.conditional_goals import AnyGoal


@dataclasses.dataclass(frozen=True)
class TaskGoal:
    """The goals of one task.

    Attributes:
      names: how many names the task takes: at least, at most.
      weights: preset -> name of a weight -> weight; which weights there are decides
        which questions a preset asks.
      build: (names, weights, **options) -> goal. Options are `scene` and `rule`, as
        for `Goals.make`, and `preset`.
    """

    names: tuple[int, int]
    weights: Mapping[str, Mapping[str, float]]
    build: Callable[..., AnyGoal]


@dataclasses.dataclass(frozen=True)
class Goals:
    """The goals of a world's tasks.

    Attributes:
      tasks: name of a task -> its goals; all have the same presets.
    """

    tasks: Mapping[str, TaskGoal]

    @property
    def presets(self) -> tuple[str, ...]:
        """Names of the presets."""
        return tuple(next(iter(self.tasks.values())).weights)

    def make(
        self,
        task: str,
        names: Sequence[str],
        preset: str = "published",
        *,
        scene: Any = None,
        weights: Mapping[str, float] | None = None,
        rule: str | None = None,
    ) -> AnyGoal:
        """The goal of a task.

        Args:
          task: a key of `tasks`.
          names: what the task is about, such as ("red moon",).
          preset: one of `presets`.
          scene: the present scene (one, no batch axes), to refuse questions about what
            is not there, and to settle what would otherwise depend on answers.
          weights: replaces some weights of the preset.
          rule: of stages, see `conditional_goals.STAGE_RULES`; None: the preset's.

        Raises:
          ValueError: an unknown task, preset, weight or name (the message suggests
            one), too few names, or something that is not in the scene.
        """
        kind = self.tasks[known("task", task, self.tasks)]
        offered = kind.weights[known("preset", preset, self.presets)]
        names, (low, high) = tuple(names), kind.names
        if not low <= len(names) <= high:
            count = f"{low} to {high} names" if low < high else f"{low} name"
            count += "s" * (low == high > 1)
            raise ValueError(f"{task} takes {count}, got {len(names)}: {list(names)}")
        for key in weights or {}:
            known(f"weight of {task}", key, offered)
        weights = {**offered, **(weights or {})}
        return kind.build(names, weights, scene=scene, rule=rule, preset=preset)
