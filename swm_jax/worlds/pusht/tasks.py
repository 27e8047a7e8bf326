"""Task of Push-T: bring the T to its goal.

  push_t  the T covers more than 0.95 of the goal's area

Source: the diffusion-policy paper and `gym_pusht`, whose threshold this is (its reward
is min(1, coverage / 0.95)), as is the limit of 300 steps.
"""

import dataclasses
import functools

import jax
from jaxtyping import Bool, Int, Key
from ml_collections import ConfigDict

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.choices import known
from swm_jax.worlds.pusht.env import PushTEnv, State
from swm_jax.worlds.pusht.overlap import coverage
from swm_jax.worlds.pusht.scene import OBJECT_NAMES, Scene
from swm_jax.worlds.world import Task

TASK_NAMES = ("push_t",)
COVERED = 0.95  # share of the goal's area
MAX_STEPS = 300


@dataclasses.dataclass(frozen=True)
class PushTTask(Task):
    """The task "push_t"."""

    max_steps: int = MAX_STEPS

    @prng.in_32_bits()
    def reset(self, env: PushTEnv, key: Key[jax.Array, ""]) -> State:
        """Any reset of the env."""
        return env.reset(key)

    @prng.in_32_bits()
    def reset_batch(self, env: PushTEnv, keys: Key[jax.Array, " B"]) -> State:
        """`reset` for B keys."""
        return env.reset_batch(keys)

    def success(self, scene: Scene) -> Bool[Array, "..."]:
        """Whether the T covers its goal, for scenes with any leading axes."""
        return task_success(self.name, scene)


def make_task(name: str, seed: int, config: ConfigDict) -> PushTTask:
    """Builds the task, which is the same for all seeds and settings of the env.

    Raises:
      ValueError: an unknown task; the message suggests one.
    """
    del seed, config
    return PushTTask(known("task", name, TASK_NAMES), (0,), OBJECT_NAMES)


@functools.partial(jax.jit, static_argnames="name")
def task_success(
    name: str, scene: Scene, slots: Int[Array, "... 1"] | None = None
) -> Bool[Array, "..."]:
    """Whether the T covers its goal, for scenes with any leading axes."""
    del name, slots  # one task about one T
    return coverage(scene.block_pose[..., 0, :]) > COVERED
