"""What an env is: resets and steps on a state, one world or many.

`Env` is the interface, and `EnvMaker` how a world makes its envs. `MjcfEnv` is an env
made of an MJCF model, in two halves: a world's half says what a state holds, where
things lie at first and what an action tells the servos; an engine (`mjx_engine`,
`mujoco_engine`) plays any world. `swm_jax.worlds.load_env` returns both.

Axes: B worlds, H control steps, A action width.
"""

import abc
import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import jax
import ml_collections
import mujoco
import numpy as np
from jaxtyping import Float, Key

from swm_jax.arrays import Array
from swm_jax.choices import known
from swm_jax.envs.scene import AnyScene

# What plays an `MjcfEnv`, by backend; "module:class", imported when it is asked for.
PLAIN = {
    "mujoco": "swm_jax.envs.mujoco_engine:MujocoEngine",
    "mjx": "swm_jax.envs.mjx_engine:MjxEngine",
}
# The same with a table's dry friction after every physics step.
PUSHING = {
    "mujoco": "swm_jax.envs.pushing:MujocoPushing",
    "mjx": "swm_jax.envs.pushing:MjxPushing",
}

State = TypeVar("State", bound=Any)  # a pytree
Scene = TypeVar("Scene", bound=AnyScene)


@dataclasses.dataclass(frozen=True)
class EnvMaker:
    """How a world makes its envs, and what all of them have in common.

    Attributes:
      engines: backend -> "module:class" of an `Env`, imported when it is asked for.
        The class takes the locked settings. The first is the one for CPU hosts.
      half: the world's half, which is joined to the class of an engine that plays any
        world; None where the classes are whole.
      settings: makes the default settings.
      action_size: A.
      action_limit: largest absolute action that stored episodes may hold.
      check: raises ValueError for settings that do not fit together.
    """

    engines: Mapping[str, str]
    settings: Callable[[], ml_collections.ConfigDict]
    action_size: int
    action_limit: float
    check: Callable[[ml_collections.ConfigDict], None]
    half: "type[MjcfEnv] | None" = None

    @property
    def device_engine(self) -> str | None:
        """The backend whose episodes run on the device as one program, if any."""
        return "mjx" if "mjx" in self.engines else None

    def engine(self, backend: str | None = None) -> str:
        """The backend, or the one that suits where JAX runs.

        Raises:
          ValueError: an unknown backend; the message suggests one.
        """
        if backend:
            return known("backend", backend, self.engines)
        on_cpu = jax.default_backend() == "cpu"
        return (not on_cpu and self.device_engine) or next(iter(self.engines))

    def make(self, backend: str | None, world: str, **changes: Any) -> "Env":
        """Builds an env.

        Args:
          backend: a key of `engines`; None for the one that suits where JAX runs.
          world: its name, for messages.
          **changes: settings that differ from the default.

        Raises:
          ValueError: an unknown backend or setting; the message suggests one.
        """
        config = self.settings()
        for field, value in changes.items():
            known("setting of " + world, field, config)
            try:
                config[field] = value
            except TypeError as error:
                raise ValueError(
                    f"setting {field!r} of {world} is {value!r}, expected a value like "
                    f"{config[field]!r}"
                ) from error
        self.check(config)
        module, _, cls = self.engines[self.engine(backend)].partition(":")
        engine = getattr(importlib.import_module(module), cls)
        return (_joined(engine, self.half) if self.half else engine)(config.lock())


@functools.cache
def _joined(engine: type, half: type) -> type:
    """The class of a world on an engine: the engine's methods come first."""
    return type(half.__name__, (engine, half), {"__doc__": half.__doc__})


def check_physics_step(physics_dt: float, period: float) -> None:
    """Raises ValueError unless the step divides the control period (seconds)."""
    steps = period / physics_dt
    if steps < 1 or abs(steps - round(steps)) > 1e-6:
        raise ValueError(
            f"physics_dt is {physics_dt} s, expected a value that divides the "
            f"control period of {period} s"
        )


class Env(abc.ABC, Generic[State, Scene]):
    """The interface; states are pytrees and nothing is kept between calls.

    Attributes:
      world: name of the world, see `swm_jax.worlds`.
      backend: name of the engine.
      traceable: every method may be traced by JAX; else it runs on the host.
      config: the settings this env was built with.
      action_size: A.
      action_limit: larger actions are clipped.
      action_names: what the numbers of an action are.
      block_ids: ids of what lies on the table, one per slot.
    """

    world: str
    backend: str
    traceable: bool
    config: ml_collections.ConfigDict
    action_size: int
    action_limit: float
    action_names: str
    block_ids: tuple[int, ...]

    def __init__(self, config: ml_collections.ConfigDict):
        self.config = config

    @abc.abstractmethod
    def reset(self, key: Key[jax.Array, ""]) -> State:
        """A new world, at rest."""

    @abc.abstractmethod
    def reset_batch(self, keys: Key[jax.Array, " B"]) -> State:
        """`reset` for B keys."""

    @abc.abstractmethod
    def step(self, state: State, action: Float[Array, " A"]) -> State:
        """One control step of one world.

        Raises:
          ValueError: an action of another shape, or one that is known not to be finite.
        """

    @abc.abstractmethod
    def step_batch(self, states: State, actions: Float[Array, "B A"]) -> State:
        """`step` for B worlds."""

    @abc.abstractmethod
    def rollout_batch(self, states: State, actions: Float[Array, "B H A"]) -> Scene:
        """Plays H actions in each of B worlds.

        Returns:
          The scenes with leading axes [B, H + 1]; index 0 is the present.
        """

    @abc.abstractmethod
    def native(self, state: State) -> State:
        """The state in this engine's own arrays: JAX's, or numpy's on the host."""

    @abc.abstractmethod
    def scene(self, state: State) -> Scene:
        """Reads the poses out of a state with any leading axes."""

    @abc.abstractmethod
    def state_from_scene(self, scene: Scene) -> State:
        """A state at rest with these poses."""

    def check_action_shape(self, actions: Any, lead: tuple[int, ...]) -> None:
        """Raises ValueError unless actions have the shape `lead + (A,)`."""
        if np.shape(actions) != (*lead, self.action_size):
            raise ValueError(
                f"actions have shape {tuple(np.shape(actions))}, expected "
                f"{(*lead, self.action_size)}: the last axis is {self.action_names}"
            )

    def check_actions(self, actions: Any, lead: tuple[int, ...]) -> np.ndarray:
        """Actions as float32 on the host.

        Raises:
          ValueError: they have the wrong shape, or one is NaN or infinite.
        """
        self.check_action_shape(actions, lead)
        actions = np.asarray(actions, np.float32)
        if not np.isfinite(actions).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(actions))[0])
            raise ValueError(
                f"action{list(where)} is {actions[where]}, expected finite numbers: "
                f"the last axis is {self.action_names}"
            )
        return actions


class MjcfEnv(Env[State, Scene]):
    """What a world tells the engine that plays it.

    A state has at least `qpos`, `qvel`, `block_id` and `step`, the count of control
    steps since the reset.

    Attributes:
      physics_steps: physics steps per control step.
    """

    physics_steps: int

    @abc.abstractmethod
    def physics_model(self) -> mujoco.MjModel:
        """What the engine integrates."""

    @staticmethod
    @abc.abstractmethod
    def fresh(key: Key[jax.Array, ""], block_ids: tuple[int, ...]) -> State:
        """A new world in JAX arrays; may be traced."""

    @abc.abstractmethod
    def command(
        self, state: State, action: Float[Array, "... A"]
    ) -> tuple[State, Float[Array, "... u"]]:
        """What an action changes in a state at once, and what it tells the servos.

        Numpy arrays and JAX arrays alike, with any leading axes.
        """

    def reset(self, key: Key[jax.Array, ""]) -> State:
        return self.native(self.fresh(key, self.block_ids))

    def reset_batch(self, keys: Key[jax.Array, " B"]) -> State:
        return self.native(_fresh_batch(self.fresh, keys, self.block_ids))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _fresh_batch(fresh, keys, block_ids):
    return jax.vmap(lambda key: fresh(key, block_ids))(keys)
