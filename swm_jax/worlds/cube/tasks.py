"""Tasks of the benchmark in the cube world: starts and conditions of success.

  reach  a finger pad is in contact with the cube
  lift   the cube hangs more than 0.05 m above the table, held by both fingers (ours)
  stack  the cubes are in contact, the first more than 0.015 m above the second, and
         no finger touches it

Source of reach and stack: Semantic World Models' evaluation release. In contact means a
gap of at most 0 between surfaces, as for MuJoCo's contacts; heights are of centres. In
every start the gripper is open in the air and the cubes lie apart on the table.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, Key
from ml_collections import ConfigDict

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.choices import index_below, known
from swm_jax.envs.scene import BLOCK_NAMES
from swm_jax.worlds.cube import geometry as geometry
from swm_jax.worlds.cube.env import CubeEnv, CubeState
from swm_jax.worlds.cube.overlap import cube_gap, finger_gaps
from swm_jax.worlds.cube.scene import CUBES, CubeScene
from swm_jax.worlds.world import Task

TASK_NAMES = ("reach", "lift", "stack")
LIFTED = 0.05  # metres above where the cube rests
STACKED = 0.015  # metres between centres
MAX_STEPS = 200
# Slots (top, bottom) of the published pairs: blue-green, blue-yellow, yellow-red.
PAIRS = ((1, 3), (1, 2), (2, 0))


@dataclasses.dataclass(frozen=True)
class CubeTask(Task):
    """Task for particular cubes: reach and lift (cube), stack (top, bottom)."""

    max_steps: int = MAX_STEPS

    @prng.in_32_bits()
    def reset(self, env: CubeEnv, key: Key[jax.Array, ""]) -> CubeState:
        """A start of this task: any reset of the env."""
        self._check(env)
        return env.reset(key)

    @prng.in_32_bits()
    def reset_batch(self, env: CubeEnv, keys: Key[jax.Array, " B"]) -> CubeState:
        """`reset` for B keys."""
        self._check(env)
        return env.reset_batch(keys)

    def success(self, scene: CubeScene) -> Bool[Array, "..."]:
        """Whether the task is achieved, for scenes with any leading axes."""
        return task_success(self.name, scene, jnp.asarray(self.slots))

    def _check(self, env):
        if max(self.slots) >= len(env.block_ids):
            here = ", ".join(BLOCK_NAMES[i] for i in env.block_ids)
            raise ValueError(
                f"{self.task} is about the {self.names[-1]}, which is not among the "
                f"env's cubes: {here}; make the task with its number of cubes"
            )


def make_task(
    name: str,
    pair: int | Sequence[str] | None = None,
    target: int | str | None = None,
    *,
    seed: int = 0,
    cubes: int = len(CUBES),
) -> CubeTask:
    """Builds a task; arguments that are None are drawn from the seed.

    Args:
      name: "reach", "lift" or "stack".
      pair: stack: an index into the published pairs or two cube names, top first;
        `seed % 3` if None (with fewer than 4 cubes, of the pairs that are there).
      target: reach and lift: a slot or a cube's name; slot `seed % cubes` if None.
      seed: of the episode.
      cubes: number of cubes on the table.

    Raises:
      ValueError: an unknown task, pair or cube; the message suggests one.
    """
    here = [BLOCK_NAMES[i] for i in CUBES[:cubes]]
    if known("task", name, TASK_NAMES) != "stack":
        target = seed % cubes if target is None else target
        if isinstance(target, str):
            target = here.index(known("cube", target, here))
        slots = (index_below("slot", target, cubes),)
    elif pair is None or isinstance(pair, int):
        pairs = [each for each in PAIRS if max(each) < cubes] or [(1, 0)]
        pair = seed % len(pairs) if pair is None else pair
        slots = pairs[index_below("pair", pair, len(pairs))]
        if max(slots) >= cubes:
            raise ValueError(f"stack needs at least 2 cubes, got {cubes}")
    else:
        slots = tuple(here.index(known("cube", each, here)) for each in pair)
        if len(slots) != 2 or slots[0] == slots[1]:
            raise ValueError(f"pair is {pair!r}, expected two different cubes")
    return CubeTask(name, slots, tuple(here[slot] for slot in slots))


def task_in(name: str, seed: int, config: ConfigDict, **which) -> CubeTask:
    """`make_task` for an env with these settings."""
    return make_task(name, seed=seed, cubes=config.cubes, **which)


@functools.partial(jax.jit, static_argnames="name")
def task_success(
    name: str, scene: CubeScene, slots: Int[Array, "... n"]
) -> Bool[Array, "..."]:
    """Whether a task about the cubes in `slots` is achieved.

    Args:
      name: a key of `TASK_NAMES`.
      scene: any leading axes.
      slots: as `CubeTask.slots`; leading axes broadcast against the scene's.
    """
    slots = jnp.broadcast_to(slots, (*scene.batch_shape, slots.shape[-1]))
    pose = jnp.take_along_axis(scene.block_pose, slots[..., None], -2)
    top = pose[..., 0, :]
    touching = finger_gaps(scene.gripper, top) <= 0.0
    if name == "reach":
        return touching.any(-1)
    if name == "lift":
        height = top[..., 2] - geometry.CUBE_HALF
        return (height > LIFTED) & touching.all(-1)
    bottom = pose[..., 1, :]
    above = top[..., 2] - bottom[..., 2] > STACKED
    return (cube_gap(top, bottom) <= 0.0) & above & ~touching.any(-1)
