"""Settings and results of closed-loop episodes, shared by host and device loops.

Axes: E episodes, T steps of an episode, A action width.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from swm_jax import worlds
from swm_jax.envs import AnyScene, Env
from swm_jax.models.tokenizer import Tokenizes
from swm_jax.planning.goals.table import CompiledGoals, compile_goals
from swm_jax.planning.noise import fold_in_each
from swm_jax.planning.planner import Planner
from swm_jax.planning.protocol import WorldModel
from swm_jax.questions.conditional_goals import AnyGoal, question_count
from swm_jax.worlds.world import Task, World


@dataclasses.dataclass(frozen=True)
class EpisodeResult:
    """Outcome of one episode.

    Attributes:
      task: name of the task.
      seed: of the episode.
      blocks: names of the task's blocks.
      success: True if the task was solved; an episode ends at its first success.
      steps: actions executed.
      seconds_per_replan: median wall time of a replan divided by the number of episodes
        planned in it, without replans that compiled.
      candidates_per_replan: candidates x iterations.
      values: value of the chosen chunk at every replan.
      nan_candidates: candidates ignored because of a NaN answer.
      scenes: scene with leading axis T + 1 (numpy).
      actions: float32[T, A], the executed actions.
    """

    task: str
    seed: int
    blocks: tuple[str, ...]
    success: bool
    steps: int
    seconds_per_replan: float
    candidates_per_replan: int
    values: list[float]
    nan_candidates: int
    scenes: AnyScene
    actions: Float[np.ndarray, "T A"]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Tasks, goals and keys of E episodes before their start.

    Attributes:
      tasks: of each episode.
      seeds: int[E].
      goals: of every episode, padded to one size.
      limits: int32[E], largest numbers of steps.
      keys: of the planner's draws.
    """

    tasks: list[Task]
    seeds: Int[np.ndarray, " E"]
    goals: CompiledGoals
    limits: Int[np.ndarray, " E"]
    keys: Key[jax.Array, " E"]


@dataclasses.dataclass(frozen=True)
class Setup:
    """Env, world model, planner and goals of closed-loop episodes.

    Attributes:
      env: see `swm_jax.worlds.load_env`.
      world_model: answers the planner's questions.
      planner: replans after `planner.config.execute` actions.
      key: of the planner's draws; every replan of an episode folds in the episode's
        seed and the number of replans before it.
      preset: of the world's goals.
      goal: function task -> goal that overrides the preset.
      tokenizer, question_length: for a world model with tokenised questions.
      image_size: height and width of the observed image (supersampled 2 x 2); None for
        a world model that observes the scene.
      look: camera and colours of the image; None for the default.
      max_steps: overrides the tasks' limits.
    """

    env: Env
    world_model: WorldModel
    planner: Planner
    key: Key[jax.Array, ""]
    preset: str = "shaped"
    goal: Callable[[Task], AnyGoal] | None = None
    tokenizer: Tokenizes | None = None
    question_length: int | None = None
    image_size: tuple[int, int] | None = None
    look: Any = None
    max_steps: int | None = None

    @property
    def world(self) -> World:
        """World of the env."""
        return worlds.load(self.env.world)

    def prepare(self, episodes: Sequence[tuple[str, int]]) -> Prepared:
        """Tasks, goals, limits and keys of the episodes (task name, seed)."""
        make = lambda name, seed: self.world.make_task(name, seed, self.env)
        tasks = [make(name, seed) for name, seed in episodes]
        own = lambda task: self.world.goal(task, self.preset)
        goals = [(self.goal or own)(task) for task in tasks]
        seeds = np.array([seed for _, seed in episodes])
        return Prepared(
            tasks=tasks,
            seeds=seeds,
            goals=compile_goals(
                goals,
                self.tokenizer,
                self.question_length,
                count=max(map(question_count, goals)),
            ),
            limits=np.array([self.max_steps or t.max_steps for t in tasks], np.int32),
            keys=keys_of(self.key, seeds),
        )

    def result(self, task: Task, seed: int, **what: Any) -> EpisodeResult:
        """Outcome of an episode of a task; `what` are the remaining fields."""
        return EpisodeResult(
            task=task.name,
            seed=seed,
            blocks=tuple(task.names),
            candidates_per_replan=self.planner.config.candidates_per_replan,
            **what,
        )


def keys_of(key: Key[jax.Array, ""], seeds: Int[np.ndarray, " E"]) -> jax.Array:
    """One key per seed; all bits of a seed count."""
    low, high = (seeds & 0xFFFFFFFF).astype(np.uint32), (seeds >> 32).astype(np.uint32)
    keys = fold_in_each(key, low)
    return jnp.where(high > 0, fold_in_each(keys, high), keys) if high.any() else keys
