"""Goals by task and preset, declared in a world's `goals.py`.

Preset "published" has the questions and weights of the Semantic World Models paper;
"shaped" adds questions that guide a planner which starts from noise instead of a base
policy. The number of questions depends on task, preset and number of names, not on the
scene, so that other scenes do not recompile.
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
      names: minimum and maximum number of names.
      weights: preset -> name of a weight -> weight; a preset has the questions of its
        weights.
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
          names: objects, regions or directions of the task, such as ("red moon",).
          preset: one of `presets`.
          scene: the present scene (without batch axes), to check that named objects are
            present, and to resolve conditions without present questions; optional.
          weights: replaces some weights of the preset.
          rule: stage rule, one of `STAGE_RULES`; None: the preset's.

        Raises:
          ValueError: an unknown task, preset, weight or name (the message suggests the
            nearest), a wrong number of names, or an object absent from the scene.
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
