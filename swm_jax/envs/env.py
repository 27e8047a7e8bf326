"""Env interface: resets and steps on explicit states, for one world or a batch.

`Env` is the interface and `EnvMaker` a world's factory of envs. `MjcfEnv` is an env
with an MJCF model, combined of two classes: a world's part defines the state, the reset
and the mapping of actions to servo targets; an engine (`mjx_engine`, `mujoco_engine`)
integrates any such world. `swm_jax.worlds.load_env` returns the combination.

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

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.choices import known
from swm_jax.envs.scene import AnyScene

# Engines of an `MjcfEnv` by backend, as "module:class", imported on first use.
PLAIN = {
    "mujoco": "swm_jax.envs.mujoco_engine:MujocoEngine",
    "mjx": "swm_jax.envs.mjx_engine:MjxEngine",
}
# Engines that add dry friction with the table after every physics step.
PUSHING = {
    "mujoco": "swm_jax.envs.pushing:MujocoPushing",
    "mjx": "swm_jax.envs.pushing:MjxPushing",
}

State = TypeVar("State", bound=Any)  # a pytree
Scene = TypeVar("Scene", bound=AnyScene)


@dataclasses.dataclass(frozen=True)
class EnvMaker:
    """Factory of a world's envs.

    Attributes:
      engines: backend -> "module:class" of an `Env`, imported on first use. The class
        takes the locked settings. The first backend is for CPU hosts.
      half: the world's `MjcfEnv`, to be combined with an engine; None where the classes
        of `engines` are complete envs.
      settings: makes the default settings.
      action_size: A.
      action_limit: largest absolute action in stored episodes.
      check: raises ValueError for invalid settings.
    """

    engines: Mapping[str, str]
    settings: Callable[[], ml_collections.ConfigDict]
    action_size: int
    action_limit: float
    check: Callable[[ml_collections.ConfigDict], None]
    half: "type[MjcfEnv] | None" = None

    @property
    def device_engine(self) -> str | None:
        """Backend for episodes on the device as one program; None if there is none."""
        return "mjx" if "mjx" in self.engines else None

    def engine(self, backend: str | None = None) -> str:
        """Validated backend; None picks one by JAX's default device.

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
          backend: a key of `engines`; None picks one by JAX's default device.
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
    """Class of a world on an engine; the engine's methods take precedence."""
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
    """Interface of envs; states are pytrees and methods are stateless.

    Attributes:
      world: name of the world, see `swm_jax.worlds`.
      backend: name of the engine.
      traceable: whether JAX can trace all methods; else they run on the host.
      config: the env's settings.
      action_size: A.
      action_limit: larger actions are clipped.
      action_names: description of an action's numbers.
      block_ids: ids of the objects on the table, one per slot.
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

    def __deepcopy__(self, memo: dict) -> "Env":
        return self  # states are arguments: there is nothing to copy

    @abc.abstractmethod
    def reset(self, key: Key[jax.Array, ""]) -> State:
        """Random initial state, at rest."""

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
        """Simulates H actions in each of B worlds.

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
    """A world's part of an env with an MJCF model: state, reset, action mapping.

    A state has at least `qpos`, `qvel`, `block_id` and `step`, the count of control
    steps since the reset.

    Attributes:
      physics_steps: physics steps per control step.
    """

    physics_steps: int

    @abc.abstractmethod
    def physics_model(self) -> mujoco.MjModel:
        """MuJoCo model that the engine integrates."""

    @staticmethod
    @abc.abstractmethod
    def fresh(key: Key[jax.Array, ""], block_ids: tuple[int, ...]) -> State:
        """Random initial state in JAX arrays; traceable."""

    @abc.abstractmethod
    def command(
        self, state: State, action: Float[Array, "... A"]
    ) -> tuple[State, Float[Array, "... u"]]:
        """State with the action applied (e.g. the peg's target), and servo targets.

        For numpy and JAX arrays with any leading axes.
        """

    @prng.in_32_bits()
    def reset(self, key: Key[jax.Array, ""]) -> State:
        return self.native(self.fresh(key, self.block_ids))

    @prng.in_32_bits()
    def reset_batch(self, keys: Key[jax.Array, " B"]) -> State:
        return self.native(_fresh_batch(self.fresh, keys, self.block_ids))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _fresh_batch(fresh, keys, block_ids):
    return jax.vmap(lambda key: fresh(key, block_ids))(keys)
