"""Adapter of OGBench's cube env to our env interface; needs the package `ogbench`.

Physics, robot and images are those of the package (`pip install swm_jax[ogbench]`);
scenes, questions, tasks and planners are ours. A state has the full state of MuJoCo, so
that one engine can alternate between parallel episodes. To render without a display,
set `MUJOCO_GL` to `egl` or `osmesa` before Python starts.

Axes: B worlds, n cubes, q joint positions. Positions in metres, angles in radians.
"""

import contextlib
import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import ml_collections
import mujoco
import numpy as np
from flax import struct
from jaxtyping import Float, Int, Key, UInt8

from swm_jax.arrays import Array
from swm_jax.envs.opengl import no_opengl
from swm_jax.envs.package_env import (
    PackageEnv,
    numpy_seed,
    seed_of,
    stack,
    worlds_of,
)
from swm_jax.worlds.cube.env import CubeEnv
from swm_jax.worlds.cube.scene import CUBES, CubeScene

VARIANTS = ("single", "double", "triple", "quadruple")  # one to four cubes
_ROBOT_JOINTS = 14  # six of the arm, eight of the gripper
_PAD = 0.0042  # metres from a pad's centre to its face, silicone included
_PADS = ("left_pad1", "left_pad2", "right_pad1", "right_pad2")
_CAMERA = "front_pixels"


class OGBenchMissing(ImportError):
    """The package is not installed."""


def available() -> bool:
    """Whether `ogbench` can be imported."""
    return importlib.util.find_spec("ogbench") is not None


class OGBenchState(struct.PyTreeNode):
    """State of OGBench's env, with any leading batch axes.

    Attributes:
      physics: float64[..., p], MuJoCo's integration state.
      gripper: float32[..., 6]; block_pose: float32[..., n, 7]; as in `CubeScene`.
      block_id: int32[..., n].
      step: int32[...], control steps since the reset.
    """

    physics: Float[np.ndarray, "... p"]
    gripper: Float[np.ndarray, "... 6"]
    block_pose: Float[np.ndarray, "... n 7"]
    block_id: Int[np.ndarray, "... n"]
    step: Int[np.ndarray, "..."]


def default_config() -> ml_collections.ConfigDict:
    """Settings of OGBench's env."""
    return ml_collections.ConfigDict(
        {
            "cubes": 4,  # 1 to 4
            "size": 224,  # side of the pictures, pixels
            "control_period": 0.1,  # seconds; 0.05 in OGBench's own data
            "episode_length": 200,  # control steps before a wrapper truncates
        }
    )


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for settings that do not fit together."""
    if not 1 <= config.cubes <= len(VARIANTS):
        raise ValueError(f"cubes is {config.cubes}, expected 1 to {len(VARIANTS)}")


class OGBenchCube(PackageEnv[OGBenchState, CubeScene]):
    """`visual-cube-*` of the package `ogbench`.

    Attributes:
      action_size, action_limit, block_ids: as `cube.CubeEnv`.
    """

    world = "ogbench"
    backend = "ogbench"
    action_size = CubeEnv.action_size
    action_limit = CubeEnv.action_limit
    action_names = CubeEnv.action_names

    def __init__(self, config: ml_collections.ConfigDict):
        """Makes the env; its first reset compiles the model (seconds).

        Args:
          config: as `default_config`.

        Raises:
          OGBenchMissing: the package is not installed.
          RuntimeError: no OpenGL context.
        """
        self.config, self.size = config, config.size
        self.block_ids = CUBES[: config.cubes]
        self._env = _make(config.cubes, config.size, config.control_period)
        self._reader = SceneReader(config.cubes, self._env)
        self._loaded: bytes | None = None

    def native(self, state: OGBenchState) -> OGBenchState:
        """Returns the state; states of other engines cannot be converted."""
        return state

    def state_from_scene(self, scene: CubeScene) -> OGBenchState:
        """Raises NotImplementedError: a scene lacks the joints of OGBench's arm."""
        raise NotImplementedError(
            "OGBench's env cannot be put into a scene: its arm has joints that a scene "
            "does not hold; begin from reset"
        )

    def reset(self, key: Key[Any, ""] | int) -> OGBenchState:
        """Reset of the package, with the seed of a key (`seed_of`)."""
        seed = seed_of(key)
        self._loaded = None
        with seeded(seed):  # the package draws from numpy's global generator too
            self._env.reset(seed=seed)
        return self._state(0)

    def step(self, state: OGBenchState, action: Float[Array, "5"]) -> OGBenchState:
        """One control step, without rendering."""
        action = self.check_actions(action, ())
        self._load(state)
        env = self._env
        env.set_control(np.clip(action.astype(np.float64), -1, 1))
        env.pre_step()
        mujoco.mj_step(env._model, env._data, nstep=env._n_steps)
        # The package leaves kinematics one physics step (2 ms) behind the positions.
        # Update them, so that poses are a function of the state.
        mujoco.mj_forward(env._model, env._data)
        mujoco.mj_rnePostConstraint(env._model, env._data)
        env.post_step()
        return self._state(int(state.step) + 1)

    def scene(self, state: OGBenchState) -> CubeScene:
        """The poses in a state with any leading axes."""
        return CubeScene(state.block_pose, state.block_id, state.gripper)

    def pictures(
        self, states: OGBenchState, height: int, width: int
    ) -> UInt8[np.ndarray, "B h w 3"]:
        """Images of OGBench's camera for B worlds (0.2 s each on a CPU).

        Raises:
          ValueError: another size than the env was made for.
        """
        if (height, width) != (self.size, self.size):
            raise ValueError(
                f"pictures of {height} x {width} px were asked for, the env was made "
                f"for {self.size} x {self.size}: load_env('ogbench', size={height})"
            )
        return np.stack([self.picture(state) for state in worlds_of(states)])

    def picture(self, state: OGBenchState) -> UInt8[np.ndarray, "h w 3"]:
        """Image of OGBench's camera for one world."""
        self._load(state)
        return np.array(self._env.render(camera=_CAMERA))

    @property
    def package_env(self) -> Any:
        """Env of the package, for its oracles, which may step it."""
        self._loaded = None  # its state may change: reload before the next step
        return self._env

    def observed(self, step: int = 0) -> OGBenchState:
        """Current state of the package's env."""
        return self._state(step)

    def _load(self, state: OGBenchState) -> None:
        wanted = np.asarray(state.physics, np.float64)
        if self._loaded == wanted.tobytes():
            return
        model, data = self._env._model, self._env._data
        mujoco.mj_setState(model, data, wanted, _integration())
        mujoco.mj_forward(model, data)
        self._loaded = wanted.tobytes()

    def _state(self, step: int) -> OGBenchState:
        model, data = self._env._model, self._env._data
        size = mujoco.mj_stateSize(model, _integration())
        physics = np.empty(size, np.float64)
        mujoco.mj_getState(model, data, physics, _integration())
        self._loaded = physics.tobytes()
        scene = self._reader.of(data)
        return OGBenchState(
            physics=physics,
            gripper=np.asarray(scene.gripper),
            block_pose=np.asarray(scene.block_pose),
            block_id=np.asarray(scene.block_id),
            step=np.array(step, np.int32),
        )


class SceneReader:
    """Forward kinematics in OGBench's model: scenes of joint positions."""

    def __init__(self, cubes: int, env: Any = None):
        """`env` is the package's with so many cubes, if there is one already.

        Raises:
          OGBenchMissing: the package is not installed.
        """
        if env is None:
            env = _make(cubes, 64, 0.05, pictures=False)
        self._model, self._data = env._model, mujoco.MjData(env._model)
        self._count = cubes
        self._pads = [self._model.geom(f"ur5e/robotiq/{name}").id for name in _PADS]
        self._site = self._model.site("ur5e/robotiq/pinch").id

    def __call__(self, qpos: Float[np.ndarray, "T q"]) -> CubeScene:
        """Scenes with leading axis T.

        Raises:
          ValueError: positions of another robot or number of cubes.
        """
        if qpos.shape[-1] != self._model.nq:
            raise ValueError(
                f"qpos has {qpos.shape[-1]} numbers, the model of {self._count} cubes "
                f"has {self._model.nq}"
            )
        scenes = []
        for row in qpos:
            self._data.qpos[:] = row
            mujoco.mj_kinematics(self._model, self._data)
            scenes.append(self.of(self._data))
        return stack(scenes)

    def of(self, data: Any) -> CubeScene:
        """Scene of MuJoCo data with current kinematics."""
        cubes = data.qpos[_ROBOT_JOINTS:].reshape(self._count, 7)
        pinch = data.site_xpos[self._site]
        turn = data.site_xmat[self._site].reshape(3, 3)
        yaw = np.arctan2(turn[1, 0], turn[0, 0])
        across = np.array([-np.sin(yaw), np.cos(yaw), 0.0])  # +y of the gripper
        gap = (data.geom_xpos[self._pads] - pinch) @ across
        left, right = gap[:2].mean() - _PAD, -gap[2:].mean() - _PAD
        return CubeScene(
            block_pose=cubes.astype(np.float32),
            block_id=np.array(CUBES[: self._count], np.int32),
            gripper=np.array([*pinch, yaw, left, right], np.float32),
        )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context with a seeded global numpy generator, which OGBench uses; restores it."""
    before = np.random.get_state()
    np.random.seed(numpy_seed(seed))
    try:
        yield
    finally:
        np.random.set_state(before)


def _make(cubes: int, size: int, control_period: float, pictures: bool = True) -> Any:
    try:
        # An extra, which few have.
        from ogbench.manipspace.envs.cube_env import CubeEnv as Theirs  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise OGBenchMissing(
            "OGBench's env needs its package: pip install 'swm_jax[ogbench]'"
        ) from error
    env = Theirs(
        env_type=VARIANTS[cubes - 1],
        ob_type="pixels" if pictures else "states",
        mode="data_collection",
        width=size,
        height=size,
        control_timestep=control_period,
        visualize_info=False,
        terminate_at_goal=False,
    )
    try:
        with seeded(0):
            env.reset(seed=0)  # compiles the model
    except mujoco.FatalError as error:
        raise no_opengl(error) from error
    return env


@functools.cache
def _integration() -> int:
    return int(mujoco.mjtState.mjSTATE_INTEGRATION)
