"""The cube arm on the C engine."""

from swm_jax.envs.mujoco_engine import MujocoEngine
from swm_jax.envs.scene import CubeScene
from swm_jax.worlds.cube.env import CubeEnv, CubeState


class MujocoCube(MujocoEngine[CubeState, CubeScene], CubeEnv):
    """C engine backend; safe to call from several threads, one call at a time."""
