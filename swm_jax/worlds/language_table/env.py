"""The real Language-Table behind our env interface, when its package is installed.

The package is google-research's `language_table` (pybullet; not on PyPI: a checkout on
PYTHONPATH). Physics and pictures are its own; scenes, questions, tasks and planners are
ours, as board and blocks lie at the same coordinates. Pybullet keeps saved worlds in
itself, so a state names one of the last `KEPT` of them and cannot outlive them.

Axes: B worlds. Positions in metres, angles in radians.
"""

import importlib.util
from collections import OrderedDict
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import struct
from jaxtyping import Float, Int, Key, UInt8
from PIL import Image

from swm_jax.arrays import Array
from swm_jax.choices import known
from swm_jax.envs.package_env import (
    PackageEnv,
    numpy_seed,
    seed_of,
    stack,
    worlds_of,
)
from swm_jax.envs.scene import BLOCK_NAMES
from swm_jax.worlds.board.env import BoardEnv
from swm_jax.worlds.board.scene import BLOCK_SETS, Scene

KEPT = 512  # largest number of states saved in pybullet
_AWAY = 5.0  # metres: position of blocks while the arm is placed
_SETTLE = 100  # physics steps until rest, as in the package's reset
_BLOCK_Z = 0.0


class LanguageTableMissing(ImportError):
    """The package is not installed."""


def available() -> bool:
    """Whether `language_table` can be imported."""
    return importlib.util.find_spec("language_table") is not None


class LanguageTableState(struct.PyTreeNode):
    """State of Language-Table's env, with any leading batch axes.

    Attributes:
      world: int32[...], number of the state saved in pybullet.
      target: float32[..., 2], target position of the effector.
      block_pose, block_id, peg: as in `Scene`.
      step: int32[...], control steps since the reset.
    """

    world: Int[np.ndarray, "..."]
    target: Float[np.ndarray, "... 2"]
    block_pose: Float[np.ndarray, "... 8 3"]
    block_id: Int[np.ndarray, "... 8"]
    peg: Float[np.ndarray, "... 2"]
    step: Int[np.ndarray, "..."]


def default_config() -> ml_collections.ConfigDict:
    """Settings of Language-Table's env."""
    return ml_collections.ConfigDict(
        {
            "block_set": "standard",  # the only one it has
            "episode_length": 120,  # control steps until truncation by wrappers
        }
    )


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for invalid settings."""
    known("block set", config.block_set, ("standard",))


class LanguageTableEnv(PackageEnv[LanguageTableState, Scene]):
    """Google's env with the eight blocks of our standard set.

    Attributes:
      action_size, action_limit, block_ids: as `board.BoardEnv`.
    """

    world = "language_table"
    backend = "language_table"
    action_size = BoardEnv.action_size
    action_names = BoardEnv.action_names
    action_limit = 0.1

    def __init__(self, config: ml_collections.ConfigDict):
        """Makes the env (seconds).

        Args:
          config: as `default_config`.

        Raises:
          LanguageTableMissing: the package is not installed.
        """
        try:
            # Late imports, as the packages are optional.
            from language_table.environments import blocks, language_table  # pyright: ignore[reportMissingImports]
            from language_table.environments.utils.pose3d import Pose3d  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise LanguageTableMissing(
                "Language-Table's env needs google-research's package: a checkout on "
                f"PYTHONPATH and pybullet, gym and opencv-python ({error})"
            ) from error
        self._pose = Pose3d
        self._env: Any = language_table.LanguageTable(
            block_mode=blocks.LanguageTableBlockVariants.BLOCK_8,
            control_frequency=10.0,
            seed=0,  # every reset has a seed of its own
            render_text_in_image=False,
        )
        self.config = config
        self.block_ids = BLOCK_SETS[config.block_set]
        self._client = self._env.pybullet_client
        self._bodies = [
            self._env._block_to_pybullet_id[BLOCK_NAMES[i].replace(" ", "_")]
            for i in self.block_ids
        ]
        self._saved: OrderedDict[int, tuple[int, Any]] = OrderedDict()
        self._next = 0

    def reset(self, key: Key[Any, ""] | int) -> LanguageTableState:
        """Reset of the package, with the seed of a key (`seed_of`)."""
        seed = seed_of(key)
        self._env._rng = np.random.RandomState(numpy_seed(seed))
        self._env.reset()
        return self._state(0)

    def native(self, state: Any) -> LanguageTableState:
        """States at rest with the poses of a board `State` (one or a batch)."""
        qpos = np.asarray(state.qpos)
        if qpos.ndim > 1:
            worlds = [
                jax.tree.map(lambda x, i=i: x[i], state) for i in range(len(qpos))
            ]
            return stack([self.native(world) for world in worlds])
        return self.place(qpos[:-2].reshape(-1, 3), qpos[-2:])

    def state_from_scene(self, scene: Scene) -> LanguageTableState:
        """A world at rest with the poses of one scene."""
        return self.place(np.asarray(scene.block_pose), np.asarray(scene.peg))

    def place(
        self, block_pose: Float[np.ndarray, "8 3"], peg: Float[np.ndarray, "2"]
    ) -> LanguageTableState:
        """State with the given poses: places the arm, then the blocks."""
        for body in self._bodies:
            self._put(body, _AWAY, _AWAY, 0.0)
        now = self._env._target_effector_pose
        place = np.array([*peg, now.translation[2]])
        self._env._set_robot_target_effector_pose(
            self._pose(rotation=now.rotation, translation=place)
        )
        self._run(_SETTLE)
        for body, (x, y, yaw) in zip(self._bodies, block_pose):
            self._put(body, x, y, yaw)
        self._run(_SETTLE)
        return self._state(0)

    def step(
        self, state: LanguageTableState, action: Float[Array, "2"]
    ) -> LanguageTableState:
        """One control step (0.1 s) of one world.

        Raises:
          ValueError: an action of another shape or not finite, or a state that is too
            old.
        """
        action = self.check_actions(action, ())
        self._load(state)
        self._env._step_robot_and_sim(np.clip(action, -0.1, 0.1))
        return self._state(int(state.step) + 1)

    def scene(self, state: LanguageTableState) -> Scene:
        """The poses in a state with any leading axes."""
        return Scene(state.block_pose, state.block_id, state.peg)

    def pictures(
        self, states: LanguageTableState, height: int, width: int
    ) -> UInt8[np.ndarray, "B h w 3"]:
        """Images of the package's camera for B worlds, resized from 180 x 320 px."""
        result = []
        for state in worlds_of(states):
            self._load(state)
            image = Image.fromarray(np.asarray(self._env.render(), np.uint8))
            image = image.resize((width, height), Image.Resampling.BOX)
            result.append(np.asarray(image))
        return np.stack(result)

    def _put(self, body: int, x: float, y: float, yaw: float) -> None:
        # Blocks lie on their side in their own frame: a quarter turn about x.
        half = np.sqrt(0.5)
        cos, sin = np.cos(yaw / 2), np.sin(yaw / 2)
        turn = [half * cos, half * sin, half * sin, half * cos]  # x, y, z, w
        place = [float(x), float(y), _BLOCK_Z]
        self._client.resetBasePositionAndOrientation(body, place, turn)

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            self._client.stepSimulation()

    def _load(self, state: LanguageTableState) -> None:
        number = int(state.world)
        if number not in self._saved:
            raise ValueError(
                f"world {number} is gone: Language-Table keeps the last {KEPT} states"
            )
        saved, target = self._saved[number]
        self._client.restoreState(saved)
        # Restoring leaves the motors as they are.
        self._env._set_robot_target_effector_pose(target)

    def _state(self, step: int) -> LanguageTableState:
        saved, target = self._client.saveState(), self._env._target_effector_pose
        number, self._next = self._next, self._next + 1
        self._saved[number] = saved, target
        if len(self._saved) > KEPT:
            _, (oldest, _) = self._saved.popitem(last=False)
            self._client.removeState(oldest)
        pose = np.zeros((8, 3), np.float32)
        for slot, body in enumerate(self._bodies):
            place, turn = self._client.getBasePositionAndOrientation(body)
            yaw = self._client.getEulerFromQuaternion(turn)[2]
            pose[slot] = *place[:2], yaw
        effector = self._env._robot.forward_kinematics().translation[:2]
        return LanguageTableState(
            world=np.array(number, np.int32),
            target=np.asarray(target.translation[:2], np.float32),
            block_pose=pose,
            block_id=np.array(self.block_ids, np.int32),
            peg=np.asarray(effector, np.float32),
            step=np.array(step, np.int32),
        )
