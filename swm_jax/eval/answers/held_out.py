"""Held-out episodes: made on the fly, so that no data set is needed, or from a folder.

Made ones come from the same policies and starts as the training data, with a data
set seed that no training data use.

Axes: E episodes, T control steps.
"""

import jax
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from data_pipelines.generate.config import default_config
from data_pipelines.generate.play import play_episodes
from data_pipelines.schema.arrays import stack_episodes
from data_pipelines.schema.episode import DataError
from data_pipelines.schema.read import read_episodes
from swm_jax import worlds
from swm_jax.envs import AnyScene, Env
from swm_jax.eval.config import UserError

SEED = 1_900_000_000  # of a data set nobody trains on
STEPS = 48
_NO_FRAMES = np.zeros((0, 1, 1, 3), np.uint8)  # pictures are drawn again from poses


class HeldOut(struct.PyTreeNode):
    """Episodes nobody has trained on.

    Attributes:
      scenes: scene with leading axes [E, T + 1], numpy.
      actions: float32[E, T, A], raw action units.
      length: int32[E], actions that belong to each episode.
    """

    scenes: AnyScene
    actions: Float[np.ndarray, "E T A"]
    length: Int[np.ndarray, " E"]


def held_out_episodes(env: Env, count: int, steps: int = STEPS) -> HeldOut:
    """Simulates `count` episodes of `steps` steps."""
    config = default_config(env.world)
    config.min_steps = config.max_steps = steps
    policies = worlds.load(env.world).policies
    played = play_episodes(env, policies, SEED, range(count), config)
    return HeldOut(
        scenes=jax.tree.map(np.asarray, played.scene),
        actions=np.asarray(played.action, np.float32),
        length=np.asarray(played.length),
    )


def stored_episodes(directory: str, count: int, world: str) -> HeldOut:
    """The first `count` episodes of the held-out split of a data folder.

    Raises:
      UserError: a folder that is missing, empty, damaged or of another world.
    """
    try:
        episodes = read_episodes(directory, "val")[:count]
    except (DataError, OSError) as error:
        raise UserError(f"--data_dir {directory}: {error}") from None
    if not episodes:
        raise UserError(f"--data_dir {directory}: its held-out split is empty")
    if episodes[0].domain != worlds.load(world).scene.domain:
        raise UserError(
            f"--data_dir {directory} holds episodes of {episodes[0].domain}, the "
            f"evaluation is about {world}"
        )
    arrays = stack_episodes(episodes, [_NO_FRAMES] * len(episodes))
    index = np.arange(len(episodes))[:, None]
    every = np.arange(arrays.action.shape[1] + 1)[None]
    return HeldOut(arrays.scene(index, every), arrays.action, arrays.length)
