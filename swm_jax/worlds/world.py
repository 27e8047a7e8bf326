"""World: a manifest of typed parts, which a world's folder exposes as `WORLD`.

    part       content
    env        engines, settings, width and limit of actions
    scene      the struct of poses, and its stored arrays
    language   question types, wordings, rules
    tasks      starts of episodes and conditions of success
    goals      questions with desired answers, by task and preset
    looks      colours, light and camera of images, by name
    render     scenes -> images, on the device and on the host
    policies   policies of generated episodes, and the default generation config
    planner    settings that differ from a planner's defaults

Axes: B worlds, A action width, n blocks.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import ml_collections
from jaxtyping import Bool, Float, Int, Key, UInt8

from swm_jax.arrays import Array
from swm_jax.choices import known
from swm_jax.envs import AnyScene, Env, EnvMaker, SceneFormat
from swm_jax.planning import Planner, get_planner
from swm_jax.questions import Language
from swm_jax.questions.conditional_goals import AnyGoal, question_count
from swm_jax.questions.task_goals import Goals


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """Task of the benchmark for particular blocks.

    Attributes:
      name: one of `Tasks.names`.
      slots: slots of the task's blocks, in the order of `names`.
      names: their names.
      max_steps: largest number of control steps of an episode.
    """

    name: str
    slots: tuple[int, ...]
    names: tuple[str, ...]
    max_steps: int

    @property
    def task(self) -> str:
        """Id such as "block_to_block:green cube,blue moon"."""
        return f"{self.name}:{','.join(self.names)}"

    @abc.abstractmethod
    def reset(self, env: Any, key: Key[jax.Array, ""]) -> Any:
        """Initial state of this task, in an env of its world.

        Raises:
          ValueError: a block of the task is missing in the env.
        """

    @abc.abstractmethod
    def reset_batch(self, env: Any, keys: Key[jax.Array, " B"]) -> Any:
        """`reset` for B keys."""

    @abc.abstractmethod
    def success(self, scene: Any) -> Bool[Array, "..."]:
        """Whether the task is achieved, for scenes with any leading axes."""


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Tasks of a world.

    Attributes:
      names: of all tasks.
      make: (name, seed, settings of the env, **which) -> task. `which` are keywords of
        the world that select objects; those not given are drawn from the seed.
      success: (name, scene, slots) -> bool[...], as `Task.success` for slots
        int32[..., n]; may be traced.
    """

    names: tuple[str, ...]
    make: Callable[..., Task]
    success: Callable[[str, AnyScene, Int[Array, "... n"]], Bool[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class Renderers:
    """Renderers of a world.

    Attributes:
      device: (scene, height, width, *, supersample, look) -> uint8[..., h, w, 3], in
        JAX, for scenes with any leading axes.
      host: the same by MuJoCo's renderer, on numpy arrays.
      size: height and width of images for display.
      positions: scene -> float32[..., K, 2], image positions (right and down, 0..1) of
        the robot and the objects, in the order of `SceneFormat.objects`; None where
        the camera is not known.
    """

    device: Callable[..., UInt8[Array, "... h w 3"]]
    host: Callable[..., Any]
    size: tuple[int, int]
    positions: Callable[[Any], Float[Array, "... K 2"]] | None = None


@dataclasses.dataclass(frozen=True)
class Policies:
    """Policies of generated episodes; pure functions of one episode, to be vmapped.

    Attributes:
      names: of the policies in a data set's mixture.
      first_memory: key -> initial memory of the policies, carried between steps.
      act: (key, step, index of the policy, scene, memory) -> action [A], memory.
      starts: (env, keys [B], config) -> states at rest.
      generation: fields of this world in a generation config.
      check: raises ValueError for an invalid generation config.
      settings: names of the config's fields that are settings of the env.
      expert: (env, scene, task, seed, key) -> action [A] of a scripted expert.
      others_act: whether stored episodes may come from policies outside `names`.
    """

    names: tuple[str, ...]
    first_memory: Callable[[Key[jax.Array, ""]], Any]
    act: Callable[..., tuple[Array, Any]]
    starts: Callable[[Any, Key[jax.Array, " B"], ml_collections.ConfigDict], Any]
    generation: Callable[[], ml_collections.ConfigDict]
    check: Callable[[ml_collections.ConfigDict], None]
    settings: tuple[str, ...]
    expert: Callable[..., Array]
    others_act: bool = False


def check_near_share(config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError unless a generation config's `near_share` is in 0..1."""
    if not 0 <= config.near_share <= 1:
        raise ValueError(
            f"config.near_share is {config.near_share!r}, expected a share between 0 "
            "and 1"
        )


@dataclasses.dataclass(frozen=True)
class PlannerSettings:
    """Fields of `PlannerConfig` that suit a world's actions.

    Attributes:
      every: of all planners.
      by_name: of one planner, in addition.
    """

    every: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    by_name: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def of(self, name: str) -> dict[str, Any]:
        """The settings of the planner of that name."""
        return {**self.every, **self.by_name.get(name, {})}


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """One world; its parts are described at the head of this module.

    Attributes:
      name: as registered in `swm_jax.worlds`.
    """

    name: str
    env: EnvMaker
    scene: SceneFormat
    language: Language
    tasks: Tasks
    goals: Goals
    looks: Mapping[str, Any]
    render: Renderers
    policies: Policies
    planner: PlannerSettings

    def make_env(self, backend: str | None = None, **settings: Any) -> Env:
        """Builds an env.

        Args:
          backend: a key of `env.engines`, such as "mujoco" or "mjx"; None picks one by
            JAX's default device.
          **settings: fields of `env.settings()` that differ.

        Raises:
          ValueError: an unknown backend or setting; the message suggests one.
        """
        return self.env.make(backend, self.name, **settings)

    def make_task(self, name: str, seed: int, env: Env, **which: Any) -> Task:
        """Task of a name and seed, for the objects of an env.

        Raises:
          ValueError: an unknown task; the message suggests one.
        """
        return self.tasks.make(name, seed, env.config, **which)

    def goal(self, task: Task, preset: str = "published") -> AnyGoal:
        """The goal of a task, see `Goals.make`."""
        return self.goals.make(task.name, task.names, preset)

    def most_questions(self, tasks: Iterable[str], preset: str) -> int:
        """Largest number of questions of the goals of some tasks."""
        made = (self.tasks.make(name, 0, self.env.settings()) for name in tasks)
        return max(question_count(self.goal(task, preset)) for task in made)

    def make_planner(self, name: str, **overrides: Any) -> Planner:
        """Planner for this world's actions, see `swm_jax.planning.get_planner`."""
        return get_planner(name, self.planner.of(name), **overrides)

    def look(self, name: str) -> Any:
        """The look of that name.

        Raises:
          ValueError: an unknown name; the message suggests the nearest.
        """
        return self.looks[known("look", name, self.looks)]

    def pictures(
        self, env: Env, height: int, width: int, look: Any = None, supersample: int = 2
    ) -> Callable[[Any], UInt8[Array, "B h w 3"]]:
        """Function from states of an env to images, compiled once.

        An env with a renderer of its own (a method `pictures`) uses that.
        """
        own = getattr(env, "pictures", None)
        if own is not None:
            return lambda states: own(states, height, width)
        draw = self.render.device
        paint = jax.jit(
            lambda scene: draw(scene, height, width, supersample=supersample, look=look)
        )
        return lambda states: paint(env.scene(states))
