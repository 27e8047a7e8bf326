"""The cube arm in MJX."""

from swm_jax.envs.mjx_engine import MjxEngine
from swm_jax.envs.scene import CubeScene
from swm_jax.worlds.cube.env import CubeEnv, CubeState


class MjxCube(MjxEngine[CubeState, CubeScene], CubeEnv):
    """MJX backend; every method may be traced."""

    cone = "pyramidal"  # in float32, elliptic ones diverge at some grasps
