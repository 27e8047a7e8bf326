"""The cube arm on both engines."""

from swm_jax.envs.mjx_engine import MjxEngine
from swm_jax.envs.mujoco_engine import MujocoEngine
from swm_jax.worlds.cube.env import CubeEnv, CubeState
from swm_jax.worlds.cube.scene import CubeScene


class MjxCube(MjxEngine[CubeState, CubeScene], CubeEnv):
    """MJX backend; every method may be traced."""

    cone = "pyramidal"  # in float32, elliptic ones diverge at some grasps


class MujocoCube(MujocoEngine[CubeState, CubeScene], CubeEnv):
    """C engine backend; safe to call from several threads, one call at a time."""
